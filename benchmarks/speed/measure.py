"""What all timing scripts share: options, contenders that take turns, and one line for each number.

A *contender* does its work once and returns the seconds that it took. In each round every contender has its turn, so
that what disturbs the machine for a while falls on all of them; ratios are taken within a round.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbinn.errors import UserError

__all__ = ["Contender", "Number", "interleave", "main", "ratios", "timed"]

Contender = Callable[[], float]


@dataclass(frozen=True)
class Number:
    """One line of a script's output.

    Attributes:
        name: What was measured.
        unit: Of the values.
        values: One for each round.
        limit: What the values could be at best, round by round and in their unit: the matrix products alone unless
            `name` says otherwise. None where there is no such limit.
    """

    name: str
    unit: str
    values: Sequence[float]
    limit: Sequence[float] | None = None

    def summary(self) -> dict[str, Any]:
        """Median, spread (10th and 90th percentile), number of rounds, and limit / value within a round (median)."""
        low, high = spread(self.values)
        return {
            "name": self.name,
            "unit": self.unit,
            "median": statistics.median(self.values),
            "p10": low,
            "p90": high,
            "rounds": len(self.values),
            "share_of_limit": None if self.limit is None else statistics.median(ratios(self.limit, self.values)),
        }


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The 10th and 90th percentile."""
    if len(values) == 1:
        return values[0], values[0]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients of two contenders' values, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def timed(work: Callable[[], Any], times: int = 1) -> Contender:
    """A contender: seconds for one call of `work`, as the mean of `times` calls in a row."""

    def contender() -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    return contender


def interleave(contenders: Mapping[str, Contender], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every contender in every round; the order turns around from one round to the next."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(-warm_up, rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            value = contenders[name]()
            if turn >= 0:
                seconds[name].append(value)
    return seconds


def line(number: Mapping[str, Any]) -> str:
    """One number as text."""
    share = number["share_of_limit"]
    return (
        f"{number['name']:<58} {digits(number['median']):>8} {number['unit']:<3} "
        f"({digits(number['p10'])} to {digits(number['p90'])})"
        + ("" if share is None else f", {100 * share:.0f} % of the limit")
    )


def digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


Measure = Callable[[argparse.Namespace, Callable[[str], None]], list[Number]]


def main(figure: str, measure: Measure, *, rounds: int, takes: Sequence[str] = ()) -> None:
    """A script: options, measurement, output.

    Args:
        figure: Name of the figure.
        measure: (options, note) → numbers; `note` adds a line about how it was measured.
        rounds: By default.
        takes: Which of the options `threads`, `data_root` and `baseline` it has beside the common ones.
    """
    options = _parser(sys.modules["__main__"].__doc__ or "", rounds, takes).parse_args()
    if options.rounds is None:
        options.rounds = 1 if options.quick else rounds
    if "threads" in takes:
        import torch

        torch.set_num_threads(options.threads)
    notes = ["quick: a trial of the script with tiny sizes, not a measurement"] if options.quick else []
    try:
        numbers = [number.summary() for number in measure(options, notes.append)]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for note in (*notes, f"median (10th to 90th percentile) of {options.rounds} round(s)"):
        print(f"# {note}")
    for number in numbers:
        print(line(number))
    if options.json is not None:
        content = {"figure": figure, "notes": notes, "numbers": numbers}
        options.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _parser(text: str, rounds: int, takes: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=_count, metavar="N", help=f"rounds that are measured ({rounds})")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that the script works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    if "threads" in takes:
        parser.add_argument("--threads", type=_count, default=1, metavar="N", help="threads of torch (1)")
    if "data_root" in takes:
        parser.add_argument(
            "--data-root", type=Path, metavar="DIR", help="where MNIST is; made-up bytes of its shape if it isn't found"
        )
    if "baseline" in takes:
        parser.add_argument(
            "--baseline", type=Path, metavar="DIR", help="a checkout of team-approx-bayes/BayesBiNN to time beside ours"
        )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
