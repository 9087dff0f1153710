"""Many runs: every strategy with every seed, in processes of their own."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from clbinn.errors import UserError
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.job import Job, RunResult
from clbinn.experiments.progress import Board
from clbinn.experiments.store import is_finished
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["RunResult", "run_grid"]


class Engine(Protocol):
    """Works on jobs. A job that fails is a result; it stops early only when a signal came."""

    def __call__(self, jobs: Sequence[Job], board: Board, interrupts: Interrupts) -> Iterable[RunResult]:
        """Results in the order in which they come."""


def run_grid(
    benchmark: BenchmarkRecipe,
    strategies: Sequence[StrategyRecipe],
    seeds: Sequence[int],
    *,
    out: Path,
    jobs: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    gpus_per_run: float | None = None,
    device: str = "auto",
    data_root: Path | None = None,
    download: bool | None = None,
    progress: bool = True,
    checkpoint_seconds: float | None = None,
) -> list[RunResult]:
    """Run every strategy with every seed. What is finished is skipped, what was cut off goes on.

    Each run has a process with one thread, so its numbers don't depend on how many run side by side. One that fails is
    reported, and the others go on.

    Args:
        benchmark: The stream.
        strategies: The strategies.
        seeds: The seeds; all strategies with the first one come first.
        out: Folder of all runs.
        jobs: Runs at the same time on this machine.
        engine: `local` processes, or a `ray` cluster.
        ray_address: Of the cluster; None is the one that Ray finds, or a new one on this machine.
        gpus_per_run: Share of a GPU that Ray gives to each run.
        device: `auto`, `cpu`, `cuda`, …
        data_root: Where data are looked for first.
        download: Whether missing data may be downloaded; None as the recipe says.
        progress: Whether bars (on a terminal) or lines show how far it is.
        checkpoint_seconds: Seconds between checkpoints; None keeps their cost under 2 % of the time.

    Returns:
        One result for each run, by seed and strategy as given.

    Raises:
        UserError: An argument can't be used, or every run failed by a mistake of the user's.
        Interrupted: Ctrl-C or SIGTERM came; all runs have saved what they have.
    """
    out = Path(out)
    given = [
        Job(benchmark, strategy, seed, out, data_root, download, device, checkpoint_seconds)
        for seed in dict.fromkeys(seeds)
        for strategy in strategies
    ]
    wanted = list({job.path: job for job in given}.values())  # a recipe given twice is one run
    results = {job.path: job.ended("skipped") for job in wanted if is_finished(job.path)}
    waiting = [job for job in wanted if job.path not in results]
    work = _engine(engine, jobs, ray_address, gpus_per_run)
    board = Board(len(waiting), shown=progress)
    interrupts = Interrupts()
    try:
        if results:
            board.say(f"{len(results)} of {len(wanted)} runs were finished before")
        with interrupts.listen():
            for result in work(waiting, board, interrupts) if waiting else ():
                if result.status == "interrupted" and not interrupts.pending:  # somebody stopped this process alone
                    result = replace(result, status="failed")
                results[result.path] = result
                board.finish(f"{result.strategy} seed {result.seed}", _verdict(result))
    finally:
        board.close()
    if interrupts.pending:
        left = sum(job.path not in results or results[job.path].status == "interrupted" for job in wanted)
        interrupts.leave(f"stopped with {left} of {len(wanted)} runs to go; the same command goes on from here")
    ordered = [results[job.path] for job in wanted]
    if ordered and all(result.users_mistake for result in ordered):
        raise UserError("\n".join(dict.fromkeys(result.message for result in ordered)))
    return ordered


def _engine(engine: str, jobs: int, ray_address: str | None, gpus_per_run: float | None) -> Engine:
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}")
    if engine == "local":
        if ray_address is not None or gpus_per_run is not None:
            raise UserError("ray_address and gpus_per_run belong to engine 'ray'")
        from clbinn.experiments.engines.local import LocalEngine

        return LocalEngine(jobs)
    if engine == "ray":
        from clbinn.experiments.engines.ray import RayEngine

        return RayEngine(ray_address, gpus_per_run)
    raise UserError(f"unknown engine {engine!r}; there are local and ray")


def _verdict(result: RunResult) -> str:
    return f"failed: {result.message.splitlines()[0]}" if result.status == "failed" and result.message else ""
