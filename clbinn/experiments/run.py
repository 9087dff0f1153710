"""One run: a strategy learns a stream with one seed, evaluated before and after every task, resumable at any moment."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clbinn import evaluation
from clbinn.errors import RecipeError
from clbinn.experiments import checkpoint, strategy_state
from clbinn.experiments.build import build_benchmark, build_strategy, check_strategy, choose_device
from clbinn.experiments.environment import environment
from clbinn.experiments.files import disk_errors, make_folder
from clbinn.experiments.interrupts import Interrupted, Interrupts
from clbinn.experiments.memory import memory_errors
from clbinn.experiments.rng import seed_all
from clbinn.experiments.store import RunFolder, is_finished, run_path
from clbinn.experiments.summary import summarise
from clbinn.experiments.watch import Opening, Report, Watch
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["run"]

_SCORES = ("accuracy", "nll", "ece")  # of a test task, in the order of the columns of a row


def run(
    benchmark: BenchmarkRecipe,
    strategy: StrategyRecipe,
    seed: int,
    out: Path,
    *,
    data_root: Path | None = None,
    download: bool | None = None,
    device: str = "auto",
    threads: int = 1,
    progress: bool | Report = True,
    checkpoint_seconds: float | None = None,
) -> Path:
    """Learn the stream, or go on where an earlier call was cut off, or do nothing if it was finished.

    The numbers depend on the recipes, the seed, the kind of machine and the threads alone: bit for bit the same whether
    the run was cut off or not. A strategy is called by `strategy.train(experience)` for each task in order and by
    `strategy.eval(test_stream)` before the first (row 0 of the accuracy matrix) and after each.

    Args:
        benchmark: The stream.
        strategy: The strategy with its network and settings.
        seed: Governs initialisation, order of the data, sampling and evaluation, and with `tasks.seed: run` the stream.
        out: Folder of all runs; this one goes to `<out>/<benchmark>/<strategy>-<hash>/seed-<n>`.
        data_root: Where data are looked for first.
        download: Whether missing data may be downloaded; None as the recipe says.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        threads: Of torch on the CPU. Sums over more threads round differently.
        progress: True shows a bar on a terminal and plain lines elsewhere; a function gets every event.
        checkpoint_seconds: Seconds between checkpoints; None keeps their cost under 2 % of the time.

    Returns:
        The run folder.

    Raises:
        UserError: The recipes, the data or the device can't be used, or another process works on the run.
        RunError: Numbers that are not finite, or a full disk.
        Interrupted: Ctrl-C or SIGTERM came; everything is saved.
    """
    from clbinn.experiments.progress import reporter

    path = run_path(Path(out), benchmark, strategy, seed)
    interrupts = Interrupts()
    with (
        disk_errors(path),
        interrupts.listen(),
        _threads(threads),
        reporter(progress, f"{strategy.name} seed {seed}") as report,
    ):
        if is_finished(path):
            report({"event": "note", "text": f"{path}: finished before"})
            return path
        make_folder(Path(out))  # a bad --out is reported before data are read
        device = choose_device(device)
        check_strategy(strategy)
        stream = build_benchmark(benchmark, seed, data_root, download)
        with memory_errors(path):
            built, metrics = build_strategy(strategy, stream, seed, device)
        if _trains_once(built):
            raise RecipeError(f"strategy {strategy.name}: {strategy.target} trains once on a whole stream; use `joint`")
        folder = RunFolder(path)  # once the recipes are known to be good
        with folder.lock():
            if folder.finished:  # another process was quicker
                return path
            folder.check_same_data(stream.info.hashes)
            folder.write_json("environment.json", environment(device, threads, stream.info.hashes))
            folder.write_recipe(benchmark, strategy, seed)
            one = _Run(folder, built, metrics, stream, strategy, seed, report, interrupts, checkpoint_seconds)
            one.go()
            summary = summarise(benchmark, strategy, seed, one.rows, built, one.final, device)
            _draw(folder, one.accuracies, f"{strategy.title or strategy.name}, seed {seed}")
            folder.write_json("summary.json", summary)  # says that all is there, so it comes last
            report({"event": "summary", **summary})
    return path


class _Run:
    """The loop over tasks, and where in it we are."""

    def __init__(
        self,
        folder: RunFolder,
        strategy: Any,
        metrics: evaluation.PredictionMetrics,
        stream: Any,
        recipe: StrategyRecipe,
        seed: int,
        report: Report,
        interrupts: Interrupts,
        checkpoint_seconds: float | None,
    ) -> None:
        self.folder, self.strategy, self.metrics, self.stream = folder, strategy, metrics, stream
        self.seed, self.report = seed, report
        self.tasks: int = stream.info.num_tasks
        self.rows: list[NDArray[np.float64]] = []  # scores (tasks, 3) of the test tasks, after each task
        self.final: dict[str, Any] = {}
        self.plugins = list(strategy.plugins)
        epochs = recipe.train.epochs
        settings = strategy_state.settings(strategy, self.plugins)
        self.watch = Watch(folder, self.plugins, settings, self.tasks, epochs, report, interrupts, checkpoint_seconds)
        strategy.plugins.insert(0, Opening(seed, epochs))
        strategy.plugins.append(self.watch)  # behind the clock, on purpose

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """The rows of the accuracy matrix there are."""
        return np.array([row[:, 0] for row in self.rows]).reshape(-1, self.tasks)

    def go(self) -> None:
        """From where the checkpoint stands, or from the start, to the end; an early one is noted in the events."""
        try:
            with memory_errors(self.folder.path):
                self._learn()
        except (Interrupted, Exception) as error:
            status = "interrupted" if isinstance(error, Interrupted) else "failed"
            with suppress(OSError):
                facts = {"error": f"{error}" or type(error).__name__} if status == "failed" else {}
                self.folder.append_event("end", status=status, **facts)
            raise

    def _learn(self) -> None:
        first = self._continue() or self._start()
        for task in range(first, self.tasks + 1):
            self.watch.task = task
            self.strategy.clock.train_exp_counter = task - 1
            seed_all(self.seed, "task", task)
            self.strategy.train(self.stream.train_stream[task - 1])
            self._evaluate(task)
            self.report(self.folder.append_event("task", task=task, tasks=self.tasks))
        if not self.final:
            self._finish()

    def _start(self) -> int:
        self.folder.cut_events(0)
        self.report(self.folder.append_event("start", seed=self.seed, tasks=self.tasks))
        self.folder.start_matrix(self.tasks, self.accuracies)
        self._evaluate(0)
        return 1

    def _continue(self) -> int | None:
        """The task that the last checkpoint stands in; None if there is nothing to go on from."""
        state, faults = checkpoint.load_latest(self.folder.path, set_aside=True)
        if state is not None:
            try:
                self.rows = self._recorded(state)
            except ValueError as error:
                faults.append(f"{self.folder.path}: events.jsonl {error}")
                state = None
        for fault in faults:
            rest = "the checkpoint before it is used" if state is not None else "the run begins again"
            self.report({"event": "note", "text": f"{fault}; {rest}"})
        if state is None:
            return None
        self.folder.start_matrix(self.tasks, self.accuracies)
        self.watch.resume(state)
        if state["finished"]:
            self.final = state
            return self.tasks + 1
        where = f"task {state['task']}, epoch {state['epoch']}" + (f", step {s}" if (s := state["iteration"]) else "")
        self.report({"event": "note", "text": f"{self.folder.path}: going on after {where}"})
        return int(state["task"])

    def _recorded(self, state: dict[str, Any]) -> list[NDArray[np.float64]]:
        """The rows that were measured before a checkpoint; ValueError says what is wrong with events.jsonl."""
        if not self.folder.cut_events(state["events_size"]):
            raise ValueError("is shorter than the checkpoint says")
        rows: list[list[list[float]]] = []
        events = self.folder.events()
        try:
            seed = next(events)["seed"]
            for event in events:
                if event["event"] == "evaluation":
                    if event["test_task"] == 1:
                        rows.append([])
                    values = [event[name] for name in _SCORES]
                    rows[-1].append([math.nan if value is None else float(value) for value in values])
        except (ValueError, KeyError, TypeError, IndexError, StopIteration):
            raise ValueError("is damaged") from None
        if seed != self.seed:
            raise ValueError(f"is of seed {seed}")
        if [len(row) for row in rows] != [self.tasks] * (state["task"] + state["finished"]):
            raise ValueError("is damaged")
        return [np.array(row) for row in rows]

    def _evaluate(self, after_task: int) -> None:
        """One row of the accuracy matrix."""
        seed_all(self.seed, "evaluation", after_task)
        started = time.monotonic()
        self.strategy.eval(self.stream.test_stream)
        self.watch.seconds["eval"] += time.monotonic() - started
        scores = [vars(s) for _, s in sorted(self.metrics.result().items())]
        self.rows.append(np.array([[score[name] for name in _SCORES] for score in scores]))
        settings = {name: strategy_state.setting(self.strategy, name) for name in ("batch_norm", "mc_samples")}
        for j, score in enumerate(scores):
            event = self.folder.append_event("evaluation", after_task=after_task, test_task=j + 1, **score, **settings)
            self.report(event)
        self.folder.append_row(after_task, self.rows[-1][:, 0])

    def _finish(self) -> None:
        """Keep what was learned, as the last checkpoint."""
        self.folder.append_event("end", status="finished")
        self.final = {
            "task": self.tasks,
            "epoch": self.watch.epochs,
            "iteration": 0,
            "finished": True,
            "seconds": self.watch.seconds,
            "unsaved": strategy_state.unsaved(self.strategy, self.plugins, self.watch.settings),
            "events_size": self.folder.events_size(),
            "learner": strategy_state.gather(self.strategy, self.plugins),
        }
        checkpoint.save(self.folder.path, self.final)


def _trains_once(strategy: Any) -> bool:
    from avalanche.training import JointTraining

    return isinstance(strategy, JointTraining)


def _draw(folder: RunFolder, R: NDArray[np.float64], title: str) -> None:
    from clbinn.report.figures import accuracy_matrix

    accuracy_matrix(R, folder.path / "accuracy_matrix.png", title=title)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
