"""The two plugins around a strategy's own: they record, check, save, and put a run back where it was.

Avalanche calls plugins in their order. `Opening` stands before all others and `Watch` behind all of them, the clock
included, so that what `Watch` saves is the state after everything else has happened.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from avalanche.core import SupervisedPlugin

from clbinn.errors import RunError
from clbinn.experiments import avalanche_state, checkpoint, strategy_state
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.rng import get_rng, seed_all, set_rng
from clbinn.experiments.store import RunFolder

__all__ = ["Opening", "Watch"]

Report = Callable[[dict[str, Any]], None]

SHARE = 0.02  # of the time may go into checkpoints
LONG_EPOCH = 60.0  # seconds after which an epoch is saved in its middle
TICK = 0.25  # seconds between two reports of progress


class Opening(SupervisedPlugin):  # type: ignore[misc]
    """Seeds each epoch and each task's end for their place alone, whatever was drawn before.

    Args:
        seed: The run's seed.
        epochs: Epochs of a task, which a continued task has fewer of left.
    """

    def __init__(self, seed: int, epochs: int) -> None:
        super().__init__()
        self.seed, self.epochs = seed, epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Seed the epoch."""
        strategy.train_epochs = self.epochs
        seed_all(self.seed, "epoch", strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Seed what strategies do when a task ends."""
        strategy.train_epochs = self.epochs
        seed_all(self.seed, "task end", strategy.clock.train_exp_counter)


class Watch(SupervisedPlugin):  # type: ignore[misc]
    """Records epochs, stops at numbers that are not finite, writes checkpoints, heeds signals, and resumes.

    Args:
        folder: Where events and checkpoints go.
        plugins: The strategy's plugins whose state is saved.
        settings: What `strategy_state.settings` gave of them before the run.
        tasks: Number of tasks of the stream.
        epochs: Epochs of a task.
        report: Gets every event, and progress in between.
        interrupts: The signals that came.
        checkpoint_seconds: Seconds between checkpoints, which may then fall inside an epoch; None writes them at the
            ends of epochs, as often as 2 % of the time allows, and inside epochs that take minutes.
    """

    def __init__(
        self,
        folder: RunFolder,
        plugins: list[Any],
        settings: list[dict[str, Any]],
        tasks: int,
        epochs: int,
        report: Report,
        interrupts: Interrupts,
        checkpoint_seconds: float | None,
    ) -> None:
        super().__init__()
        self.folder, self.plugins, self.settings = folder, plugins, settings
        self.tasks, self.epochs = tasks, epochs
        self.report, self.interrupts, self.checkpoint_seconds = report, interrupts, checkpoint_seconds
        self.task = 0
        self.seconds = {"train": 0.0, "eval": 0.0}
        self._resume: dict[str, Any] | None = None
        self._started = self._saved = self._ticked = time.monotonic()
        self._cost = 0.0
        self._told_unsaved = False
        self._loss: Any = 0.0
        self._loader: Any = None
        self._begin_epoch()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from this checkpoint at the next call of `strategy.train`."""
        self._resume = state
        self.seconds = dict(state["seconds"])

    # --- hooks -----------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Start the clock of the task; give Avalanche's plugins back what they know."""
        self._started = time.monotonic()
        if self._resume is not None:
            self._restore(strategy_state.restore_before_task, strategy, self._resume)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Put back the state after a whole epoch; leave the rest to the loop over epochs that are left."""
        if self._resume is None:
            return
        vars(strategy.clock).update(self._resume["learner"]["clock"])
        strategy.train_epochs = self.epochs - self._resume["epoch"]
        if not self._resume["iteration"]:
            self._restore(strategy_state.restore, strategy, self._resume)
            self._resume = None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Put back the state inside an epoch, and pass over the batches that are done."""
        self._begin_epoch()
        if self._resume is None:
            return
        state, self._resume = self._resume, None
        self._restore(strategy_state.restore, strategy, state)
        self._loss, self._steps, self._epoch_seconds = state["loss"], state["iteration"], state["epoch_seconds"]
        self._loader = strategy.dataloader
        strategy.dataloader = _Rest(self._loader, state["iteration"], lambda: set_rng(state["rng"]))

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Look at the loss; save and leave if asked to."""
        self._steps += 1
        loss = strategy.loss.detach()
        if loss.device.type == "cpu":
            loss = loss.item()
            if not math.isfinite(loss):
                raise RunError(self._what_went_wrong(strategy, loss))
        self._loss = self._loss + loss
        now = time.monotonic()
        if now - self._ticked > TICK:
            self._ticked = now
            self._progress(strategy)
        pause = LONG_EPOCH if self.checkpoint_seconds is None else self.checkpoint_seconds
        if self.interrupts.pending:
            self._save(strategy, inside=True)
            self._leave()
        elif now - self._saved >= max(pause, self._cost / SHARE):
            self._save(strategy, inside=True)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Record the epoch, check what was learned, and save it."""
        if self._loader is not None:
            strategy.dataloader = self._loader
        mean_loss = float(self._loss) / max(self._steps, 1)
        if not math.isfinite(mean_loss):
            raise RunError(self._what_went_wrong(strategy, mean_loss))
        state = strategy_state.gather(strategy, self.plugins)
        fault = strategy_state.first_not_finite(state)
        if fault:
            raise RunError(f"{self._place(strategy)}: {fault} is not finite any more. {_LIKELY_LEARNING_RATE}")
        event = self.folder.append_event(
            "epoch",
            task=self.task,
            epoch=strategy.clock.train_exp_epochs,
            epochs=self.epochs,
            loss=mean_loss,
            seconds=round(self._epoch_seconds + time.monotonic() - self._epoch_started, 4),
        )
        self.report(event)
        self._progress(strategy)
        if self.interrupts.pending or time.monotonic() - self._saved >= (self.checkpoint_seconds or self._cost / SHARE):
            self._save(strategy)
        if self.interrupts.pending:
            self._leave()

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Stop the clock of the task."""
        self.seconds["train"] += time.monotonic() - self._started

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Leave if asked to; the evaluation is done again next time."""
        if self.interrupts.pending:
            self._leave()

    # --- inner -----------------------------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        self._loss = 0.0
        self._steps = 0
        self._epoch_seconds = 0.0
        self._epoch_started = time.monotonic()
        self._loader = None

    def _restore(self, how: Callable[..., None], strategy: Any, state: dict[str, Any]) -> None:
        with checkpoint.fitting(self.folder.path):
            how(strategy, self.plugins, state["learner"])

    def _save(self, strategy: Any, inside: bool = False) -> None:
        if strategy.clock.train_exp_epochs < self.epochs and not self._holds_inside_task():
            return
        started = time.monotonic()
        missing = strategy_state.unsaved(strategy, self.plugins, self.settings)
        if missing:
            if not self._told_unsaved:
                text = f"{', '.join(missing)} can't be saved: a run that is cut off begins again from its start"
                self.report({"event": "note", "text": text})
            self._told_unsaved = True
            self._saved = started
            return
        seconds = {**self.seconds, "train": self.seconds["train"] + started - self._started}
        state = {
            "task": self.task,
            "epoch": strategy.clock.train_exp_epochs,
            "iteration": self._steps if inside else 0,
            "finished": False,
            "seconds": seconds,
            "loss": self._loss,
            "epoch_seconds": self._epoch_seconds + started - self._epoch_started,
            "rng": get_rng() if inside else None,
            "events_size": self.folder.events_size(),
            "learner": strategy_state.gather(strategy, self.plugins),
        }
        checkpoint.save(self.folder.path, state)
        self._told_unsaved = False
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def _holds_inside_task(self) -> bool:
        return all(map(avalanche_state.holds_inside_task, self.plugins))

    def _leave(self) -> None:
        rest = "goes on from here"
        if self._told_unsaved:
            rest = "goes on from here (what this strategy knows can't be saved: it will begin again)"
        elif not self._holds_inside_task():
            rest = "goes on from the last task that was saved (this strategy can't be cut inside a task)"
        self.interrupts.leave(f"{self.folder.path}: stopped; the same command {rest}")

    def _progress(self, strategy: Any) -> None:
        epoch, length = strategy.clock.train_exp_epochs, len(strategy.dataloader)
        inside = min(strategy.clock.train_epoch_iterations / max(length, 1), 1.0) if epoch < self.epochs else 0.0
        done = (self.task - 1 + (epoch + inside % 1.0) / self.epochs) / self.tasks
        self.report({"event": "progress", "task": self.task, "tasks": self.tasks, "epoch": epoch, "done": done})

    def _place(self, strategy: Any) -> str:
        epoch = min(strategy.clock.train_exp_epochs + 1, self.epochs)
        return f"{self.folder.path}: task {self.task}, epoch {epoch}, step {self._steps}"

    def _what_went_wrong(self, strategy: Any, loss: float) -> str:
        state = strategy_state.gather(strategy, self.plugins)
        fault = strategy_state.first_not_finite(state)
        if not bool(strategy.mb_x.isfinite().all()):
            cause = "The inputs of this batch hold numbers that are not finite: look at the data."
        elif fault:
            cause = f"{fault} is not finite any more. {_LIKELY_LEARNING_RATE}"
        else:
            cause = _LIKELY_LEARNING_RATE
        return f"{self._place(strategy)}: the loss is {loss}. {cause} The last checkpoint is kept."


_LIKELY_LEARNING_RATE = "Likely the learning rate is too large (for BayesBiNN also: the temperature too small)."


class _Rest:
    """What is left of an epoch: passes over `done` batches, then calls `then`, then gives the others."""

    def __init__(self, loader: Any, done: int, then: Callable[[], None]) -> None:
        self.loader, self.done, self.then = loader, done, then

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        for _ in range(self.done):
            next(batches)
        self.then()
        yield from batches
