"""How long `clbinn --help` takes, as a new process each time. The limit is a Python that does nothing."""

import argparse
import subprocess
import sys
from collections.abc import Callable

from measure import Contender, Number, interleave, main, timed


def process(*arguments: str) -> Contender:
    return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL))


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    seconds = interleave({"help": process("-m", "clbinn", "--help"), "empty": process("-c", "")}, options.rounds)
    return [
        Number("clbinn --help", "s", seconds["help"], seconds["empty"]),
        Number("a Python that does nothing (the limit)", "s", seconds["empty"]),
    ]


if __name__ == "__main__":
    main("start", measure, rounds=10)
