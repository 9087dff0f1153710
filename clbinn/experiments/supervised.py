"""One supervised run of the appendix: train on the split, keep the best validation epoch, test that.

It leaves the same files as a run on a stream, of one task, so the report and the targets read it likewise. Training
accuracy is that of the training passes themselves (with dropout and sampled weights), as the paper's numbers are.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbinn.errors import RunError
from clbinn.evaluation.probabilistic import ece, nll
from clbinn.experiments import checkpoint
from clbinn.experiments.build import choose_device
from clbinn.experiments.environment import environment
from clbinn.experiments.files import disk_errors
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.memory import memory_errors
from clbinn.experiments.paper import Method
from clbinn.experiments.rng import get_rng, seed_all, set_rng
from clbinn.experiments.store import RunFolder, is_finished, run_path
from clbinn.experiments.strategy_state import first_not_finite
from clbinn.experiments.summary import summarise_one_task
from clbinn.experiments.supervised_build import Learner, build_learner
from clbinn.experiments.supervised_data import Experiment, load_experiment
from clbinn.optim.binary import BinaryOptimizer
from clbinn.predict import predict_log_proba
from clbinn.schema import BenchmarkRecipe
from clbinn.seeding import derive_seed

__all__ = ["evaluate", "train"]

CHECKPOINT_SECONDS = 60.0


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    best: dict[str, Any] = field(default_factory=dict)  # epoch, accuracies, and the learner's state then
    untrained: float = 0.0
    inside: dict[str, Any] | None = None  # of an epoch that is cut off: its step, sums, time and random state


def train(
    benchmark: BenchmarkRecipe,
    method: Method,
    seed: int,
    out: Path,
    *,
    data_root: Path | None = None,
    download: bool | None = None,
    device: str = "auto",
    report: Callable[[str], None] = lambda text: None,
    protocol: Sequence[str] = (),
) -> list[Path]:
    """Run one method with one seed, or go on where it was cut off, or do nothing if it was finished.

    Args:
        benchmark: The data, a recipe of one task.
        method: The optimizer with its settings.
        seed: Of split, initialisation, order, dropout and sampling.
        out: Folder of all runs.
        data_root: Folder that is searched first for data.
        download: Whether missing data may be downloaded; None as the recipe says.
        device: `auto`, `cpu`, `cuda`, …
        report: Gets a line of progress now and then.
        protocol: What is not as in the published table, for the note in summary.json.

    Returns:
        The run folders: one for `mc_samples`, one more for each of `also_mc_samples`.

    Raises:
        UserError: Recipe, data or device can't be used, or another process works on the run.
        RunError: Numbers that are not finite, or a full disk.
        Interrupted: Ctrl-C or SIGTERM came; everything is saved.
    """
    paths = [run_path(out, benchmark, variant, seed) for variant in method.variants]
    if all(map(is_finished, paths)):
        return paths
    device = choose_device(device)
    data = load_experiment(benchmark, method.validation, derive_seed(seed, "split"), data_root, download)
    folders = [RunFolder(path) for path in paths]
    interrupts = Interrupts()
    with disk_errors(paths[0]), memory_errors(paths[0]), folders[0].lock(), interrupts.listen():
        if all(map(is_finished, paths)):  # another process was quicker
            return paths
        folders[0].check_same_data(data.hashes)
        seed_all(seed, "initialisation")
        state = _last_state(folders[0], report)
        learner = build_learner(method, data, seed, device, report, interrupts, pretrain=state is None)
        for folder, variant in zip(folders, method.variants, strict=True):
            folder.write_recipe(benchmark, variant, seed)
            folder.write_json("environment.json", environment(device, torch.get_num_threads(), data.hashes))
        one = _Run(folders[0], method, data, learner, seed, device, report, interrupts)
        progress = one.go(state)
        for folder, variant in zip(folders, method.variants, strict=True):
            _finish(folder, benchmark, variant, one, progress, seed, protocol)
    return paths


class _Run:
    """The loop over epochs."""

    def __init__(
        self,
        folder: RunFolder,
        method: Method,
        data: Experiment,
        learner: Learner,
        seed: int,
        device: str,
        report: Callable[[str], None],
        interrupts: Interrupts,
    ) -> None:
        self.folder, self.method, self.data, self.learner = folder, method, data, learner
        self.seed, self.device, self.report, self.interrupts = seed, device, report, interrupts
        self.saved = time.monotonic()

    def go(self, state: dict[str, Any] | None) -> Progress:
        """From a checkpoint's state, or the start, to the last epoch; the learner is then as it was at the best one."""
        progress = self._start() if state is None else self._continue(state)
        while progress.epoch < self.method.train.epochs:
            self._epoch(progress)
            if self._due() or progress.epoch == self.method.train.epochs:
                self._save(progress)
        self.learner.load_state_dict(progress.best["learner"])
        return progress

    def scores(self, mc_samples: int) -> dict[str, dict[str, float]]:
        """Accuracy, NLL and ECE on validation and test data, with the weights as they are."""
        parts = {"test": self.data.test} | ({"validation": self.data.validation} if self.data.validation else {})
        seed = derive_seed(self.seed, "evaluation")
        return {name: evaluate(self.learner, part, mc_samples, seed, self.device) for name, part in parts.items()}

    def _start(self) -> Progress:
        self.folder.cut_events(0)
        self.folder.append_event("start", seed=self.seed, tasks=1)
        untrained = self.scores(self.method.mc_samples)["test"]["accuracy"]
        self.folder.start_matrix(1, np.array([[untrained]]))
        progress = Progress(untrained=untrained)
        if self.method.pretraining is not None:
            self._save(progress)
        return progress

    def _continue(self, state: dict[str, Any]) -> Progress:
        with checkpoint.fitting(self.folder.path):
            self.learner.load_state_dict(state["learner"])
            progress = Progress(**state["progress"])
        self.folder.start_matrix(1, np.array([[progress.untrained]]))
        step = f", step {progress.inside['step']} of the next" if progress.inside else ""
        self.report(f"{self.folder.path}: going on after epoch {progress.epoch}{step}")
        return progress

    def _due(self) -> bool:
        return time.monotonic() - self.saved > CHECKPOINT_SECONDS

    def _save(self, progress: Progress) -> None:
        state = {
            "learner": self.learner.state_dict(),
            "progress": vars(progress),
            "events_size": self.folder.events_size(),
        }
        checkpoint.save(self.folder.path, state)
        self.saved = time.monotonic()

    def _epoch(self, progress: Progress) -> None:
        epoch = progress.epoch + 1
        seed_all(self.seed, "epoch", epoch)
        loss, accuracy, seconds = self._train_epoch(epoch, progress)
        started = time.monotonic()
        facts = {"train_accuracy": accuracy, "loss": loss}
        if self.data.validation is not None:
            seed = derive_seed(self.seed, "evaluation")
            scores = evaluate(self.learner, self.data.validation, self.method.mc_samples, seed, self.device)
            facts["validation_accuracy"] = scores["accuracy"]
        better = facts.get("validation_accuracy", 0.0) > progress.best.get("validation_accuracy", -1.0)
        if self.data.validation is None or better:
            progress.best = {"epoch": epoch, **facts, "learner": copy.deepcopy(self.learner.state_dict())}
        progress.epoch = epoch
        progress.seconds_train += seconds
        progress.seconds_eval += time.monotonic() - started
        epochs = self.method.train.epochs
        self.folder.append_event("epoch", task=1, epoch=epoch, epochs=epochs, seconds=round(seconds, 3), **facts)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in facts.items())
        self.report(f"{self.method.name} seed {self.seed}: epoch {epoch}/{epochs}  {shown}  ({seconds:.0f} s)")

    def _train_epoch(self, epoch: int, progress: Progress) -> tuple[float, float, float]:
        """One pass over the training data, or the rest of one: mean loss and accuracy of its mini-batches, seconds."""
        self.learner.network.train()
        begun, progress.inside = progress.inside or {"step": 0, "seconds": 0.0}, None
        losses, correct = (begun.get(name, torch.zeros(())).to(self.device) for name in ("losses", "correct"))
        started = time.monotonic() - begun["seconds"]
        order = derive_seed(self.seed, "order", epoch)
        size = self.method.train.batch_size
        batches = self.data.batches(size, order, self.device, self.method.augment)
        if begun["step"]:
            set_rng(begun["rng"])
        for step, (x, y) in enumerate(batches, 1):
            if step <= begun["step"]:
                continue
            loss, logits = self.learner.step(x, y)
            losses += loss * len(y)
            correct += (logits.argmax(1) == y).sum()
            self.learner.schedule("iteration")
            if self.interrupts.pending or self._due():
                sums = {"losses": losses.cpu(), "correct": correct.cpu()}
                seconds = time.monotonic() - started
                self._save(replace(progress, inside={"step": step, "seconds": seconds, "rng": get_rng(), **sums}))
                if self.interrupts.pending:
                    self._leave(epoch, step)
        self.learner.schedule("epoch")
        if not bool(losses.isfinite()) or (where := first_not_finite(self.learner.optimizer.state_dict()["state"])):
            what = "the loss" if not bool(losses.isfinite()) else f"the optimizer's {where}"
            raise RunError(f"{self.folder.path}: {what} is not finite in epoch {epoch}; a smaller step size may help")
        count = step * len(y)  # all mini-batches are of one size
        return float(losses) / count, float(correct) / count, time.monotonic() - started

    def _leave(self, epoch: int, step: int) -> None:
        self.interrupts.leave(
            f"{self.folder.path}: stopped and saved in epoch {epoch}, step {step}; the same command goes on from there"
        )


def _last_state(folder: RunFolder, report: Callable[[str], None]) -> dict[str, Any] | None:
    """What the last whole checkpoint holds, with the events cut to it."""
    state, faults = checkpoint.load_latest(folder.path, set_aside=True)
    if state is not None and not folder.cut_events(state["events_size"]):
        faults.append(f"{folder.path}: events.jsonl is shorter than the checkpoint says")
        state = None
    for fault in faults:
        report(f"{fault}; {'the checkpoint before it is used' if state is not None else 'the run begins again'}")
    return state


@torch.no_grad()
def evaluate(learner: Learner, data: Any, mc_samples: int, seed: int, device: str) -> dict[str, float]:
    """Accuracy, NLL and ECE of the mean of `mc_samples` draws (0: the mode; real weights: as they are).

    Args:
        learner: Network and optimizer.
        data: A `TensorTask`.
        mc_samples: C.
        seed: Of the draws.
        device: Where it is computed.
    """
    x, y = data.batch(torch.arange(len(data), device=device))
    network, optimizer = learner.network, learner.optimizer
    if isinstance(optimizer, BinaryOptimizer):
        log_probs = predict_log_proba(network, optimizer, x, mc_samples, seed=seed)
    else:
        log_probs = _plain_log_probs(network, x)
    probs = log_probs.exp()
    accuracy = float((log_probs.argmax(1) == y).float().mean())
    return {"accuracy": accuracy, "nll": float(nll(probs, y)), "ece": float(ece(probs, y))}


def _plain_log_probs(network: nn.Module, x: Tensor) -> Tensor:
    training = network.training
    network.eval()
    outputs = torch.cat([F.log_softmax(network(part), 1) for part in torch.split(x, 1000)])
    network.train(training)
    return outputs


def _finish(
    folder: RunFolder,
    benchmark: BenchmarkRecipe,
    method: Method,
    one: _Run,
    progress: Progress,
    seed: int,
    protocol: Sequence[str],
) -> None:
    """The best epoch's numbers on disk."""
    scores = one.scores(method.mc_samples)
    test = scores["test"]
    if folder is not one.folder:
        folder.start_matrix(1, np.array([[progress.untrained]]))
    folder.append_row(1, np.array([test["accuracy"]]))
    facts = {"batch_norm": "running", "mc_samples": method.mc_samples}
    folder.append_event("evaluation", after_task=1, test_task=1, **test, **facts)
    folder.append_event("end", status="finished")
    accuracy = test["accuracy"]
    numbers = {
        "average_accuracy": accuracy,
        "learning_accuracy": accuracy,
        "average_incremental_accuracy": accuracy,
        "train_accuracy": progress.best["train_accuracy"],
        "validation_accuracy": scores["validation"]["accuracy"] if "validation" in scores else None,
        "test_accuracy": accuracy,
        "best_epoch": progress.best["epoch"],
        "nll": test["nll"],
        "ece": test["ece"],
        "seconds_train": round(progress.seconds_train, 3),
        "seconds_eval": round(progress.seconds_eval, 3),
        "batch_norm": "running",
    }
    shared = summarise_one_task(benchmark, method, seed, one.learner, one.device, protocol)
    folder.write_json("summary.json", shared | numbers)
