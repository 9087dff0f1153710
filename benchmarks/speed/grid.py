"""A grid of eight small runs in two processes, against one run after the other.

BayesBiNN on permuted 8 × 8 digits with eight seeds. The limit is two times as fast. Imports count: each process pays
for them once.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Contender, Number, interleave, main, ratios, timed

from clbinn.errors import RunError
from clbinn.experiments.grid import run_grid
from clbinn.recipes import load_benchmark, load_strategy

JOBS = 2


def grid(jobs: int, runs: int, epochs: int) -> Contender:
    benchmark = load_benchmark("permuted_digits")
    strategy = load_strategy("bayesbinn", [f"train.epochs={epochs}"])

    def work() -> None:
        with TemporaryDirectory() as folder:
            results = run_grid(
                benchmark, [strategy], range(runs), out=Path(folder), jobs=jobs, device="cpu", progress=False
            )
        failed = [result.message for result in results if result.status != "done"]
        if failed:
            raise RunError(failed[0])

    return timed(work)


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    runs, epochs = (2, 1) if options.quick else (8, 200)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < JOBS:
        note(f"only {cores} core: nothing can be won here")
    seconds = interleave(
        {"parallel": grid(JOBS, runs, epochs), "serial": grid(1, runs, epochs)}, options.rounds, warm_up=0
    )
    faster = ratios(seconds["serial"], seconds["parallel"])
    return [
        Number(f"{runs} runs, one after the other", "s", seconds["serial"]),
        Number(f"{runs} runs, {JOBS} at a time", "s", seconds["parallel"], [v / JOBS for v in seconds["serial"]]),
        Number(f"times as fast (the limit is {JOBS})", "×", faster),
    ]


if __name__ == "__main__":
    main("grid", measure, rounds=2)
