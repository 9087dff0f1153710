"""Runs on the synthetic problems (Tables 3 and 4): full batches, a figure's worth of predictions, a test number."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbinn.errors import RecipeError, RunError
from clbinn.evaluation.probabilistic import nll
from clbinn.experiments.build import choose_device
from clbinn.experiments.environment import environment
from clbinn.experiments.files import disk_errors
from clbinn.experiments.memory import memory_errors
from clbinn.experiments.paper import Method
from clbinn.experiments.rng import seed_all
from clbinn.experiments.store import RunFolder, is_finished, run_path
from clbinn.experiments.summary import summarise_one_task
from clbinn.experiments.supervised_build import Learner, build_optimizer, build_schedules
from clbinn.experiments.synthetic_data import Points
from clbinn.nn.batch_norm import batch_norms
from clbinn.nn.build import build_model
from clbinn.optim._noise import Noise
from clbinn.schema import BenchmarkRecipe
from clbinn.seeding import derive_seed
from clbinn.targets import check_options, import_target

__all__ = ["load_points", "outputs", "train"]

GRID = 3.0  # the figures show standardised inputs from -GRID to GRID
GRID_POINTS = 121


def load_points(benchmark: BenchmarkRecipe, data_root: Path | None) -> Points:
    """The points that a recipe's source function gives.

    Raises:
        RecipeError: There is no source, or an option that it doesn't take.
        DataError: Data that can't be read.
    """
    if benchmark.source is None or ":" not in benchmark.source.dataset:
        raise RecipeError(f"{benchmark.name}: source.dataset: a synthetic problem is a function, `package.module:name`")
    function = import_target(benchmark.source.dataset, "source.dataset")
    check_options(function, benchmark.source.options, "source.options", given=("data_root",))
    points: Points = function(data_root=data_root, **benchmark.source.options)
    return points


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
    """Run one method with one seed, or do nothing if it was finished; arguments as in `supervised.train`.

    A regression is learned twice: from all points for the curve, and without the held-out ones for the test error.

    Returns:
        The run folders, one for each number of weight samples; `prediction.npz` in them is what the figures show.
    """
    paths = [run_path(out, benchmark, variant, seed) for variant in method.variants]
    if all(map(is_finished, paths)):
        return paths
    points = load_points(benchmark, data_root)
    device = choose_device(device)
    folders = [RunFolder(path) for path in paths]
    with disk_errors(paths[0]), memory_errors(paths[0]), folders[0].lock():
        if all(map(is_finished, paths)):  # another process was quicker
            return paths
        folders[0].cut_events(0)
        started = time.monotonic()
        learner = _learn(folders[0], method, points, points.train_x, points.train_y, seed, device, report)
        tested = learner
        if points.regression:
            kept = ~(points.train_x[:, None] == points.test_x).all(2).any(1)
            x, y = points.train_x[kept], points.train_y[kept]
            tested = _learn(folders[0], method, points, x, y, seed, device, report, shown=False)
        seconds = time.monotonic() - started
        for folder, variant in zip(folders, method.variants, strict=True):
            _finish(folder, benchmark, variant, points, learner, tested, seed, device, seconds, protocol)
    return paths


def outputs(learner: Learner, train_x: Tensor, x: Tensor, mc_samples: int, seed: int) -> Tensor:
    """The network's outputs for each of `mc_samples` draws of its weights, (samples, n); 0 is the mode alone.

    Batch normalisation takes the statistics that these very weights have on the training inputs.
    """
    if mc_samples == 0 or not hasattr(learner.optimizer, "sample_weights"):
        return _normalised(learner.network, train_x, x)[None]
    noise = Noise(seed, x.device)
    draws = []
    for _ in range(mc_samples):
        with learner.optimizer.weights(learner.optimizer.sample_weights(noise)):
            draws.append(_normalised(learner.network, train_x, x))
    return torch.stack(draws)


@torch.no_grad()
def _normalised(network: nn.Module, train_x: Tensor, x: Tensor) -> Tensor:
    norms = batch_norms(network).values()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    network(train_x)
    network.eval()
    result: Tensor = network(x).squeeze(1)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return result


def _learn(
    folder: RunFolder,
    method: Method,
    points: Points,
    x: Tensor,
    y: Tensor,
    seed: int,
    device: str,
    report: Callable[[str], None],
    shown: bool = True,
) -> Learner:
    """Full-batch training; its progress is told and written to `folder` unless it is not to be shown."""
    seed_all(seed, "initialisation")
    x, y = x.to(device), y.to(device)
    network = build_model(method.model, tuple(x.shape[1:]), 1).to(device)
    optimizer = build_optimizer(method, network, method.data_factor * len(y), seed)
    schedules = build_schedules(method.schedules, optimizer, method.train.epochs, 1)
    loss = F.mse_loss if points.regression else F.binary_cross_entropy_with_logits
    learner = Learner(network, optimizer, schedules, lambda output, target: loss(output.squeeze(1), target))
    epochs = method.train.epochs
    network.train()
    for epoch in range(1, epochs + 1):
        value, _ = learner.step(x, y)
        learner.schedule("epoch")
        if epoch % max(epochs // 20, 1) == 0 or epoch == epochs:
            if not bool(value.isfinite()):
                raise RunError(f"{folder.path}: the loss is not finite in epoch {epoch}; a smaller step size may help")
            if shown:
                folder.append_event("epoch", task=1, epoch=epoch, epochs=epochs, loss=float(value), seconds=0.0)
                report(f"{method.name} seed {seed}: epoch {epoch}/{epochs}  loss {float(value):.4f}")
    return learner


def _finish(
    folder: RunFolder,
    benchmark: BenchmarkRecipe,
    method: Method,
    points: Points,
    learner: Learner,
    tested: Learner,
    seed: int,
    device: str,
    seconds: float,
    protocol: Sequence[str],
) -> None:
    draw = derive_seed(seed, "evaluation")
    train_x, test_x = points.train_x.to(device), points.test_x.to(device)
    grid = _grid(points).to(device)
    predicted = outputs(learner, train_x, grid, method.mc_samples, draw)
    kept = train_x if tested is learner else train_x[~(train_x[:, None] == test_x).all(2).any(1)]
    on_test = outputs(tested, kept, test_x, method.mc_samples, draw).cpu()
    on_train = outputs(learner, train_x, train_x, method.mc_samples, draw).cpu()
    shown = predicted if points.regression else torch.sigmoid(predicted)
    np.savez(
        folder.path / "prediction.npz",
        grid=grid.cpu().numpy(),
        outputs=shown.cpu().numpy(),
        train_x=points.train_x.numpy(),
        train_y=points.train_y.numpy(),
    )
    folder.write_recipe(benchmark, method, seed)
    folder.write_json("environment.json", environment(device, torch.get_num_threads(), {}))
    numbers = _numbers(points, on_train, on_test)
    if "test_accuracy" in numbers:
        folder.start_matrix(1, np.array([[np.nan], [numbers["test_accuracy"]]]))
    shared = summarise_one_task(benchmark, method, seed, learner, device, protocol)
    folder.write_json("summary.json", shared | numbers | {"data": points.name, "seconds_train": round(seconds, 3)})


def _numbers(points: Points, on_train: Tensor, on_test: Tensor) -> dict[str, float]:
    """Mean squared errors of a regression (standardised outputs); accuracy and NLL of a classification."""
    if points.regression:
        return {
            "train_mse": float(F.mse_loss(on_train.mean(0), points.train_y)),
            "test_mse": float(F.mse_loss(on_test.mean(0), points.test_y)),
        }
    numbers = {}
    for part, out, y in (("train", on_train, points.train_y), ("test", on_test, points.test_y)):
        p = torch.sigmoid(out).mean(0)
        numbers[f"{part}_accuracy"] = float(((p > 0.5).float() == y).float().mean())
        numbers[f"{part}_nll"] = float(nll(torch.stack([1 - p, p], 1), y.long()))
    return numbers | {"average_accuracy": numbers["test_accuracy"], "nll": numbers["test_nll"]}


def _grid(points: Points) -> Tensor:
    """Inputs that the figures show: a line or a square, (g, features)."""
    axis = torch.linspace(-GRID, GRID, GRID_POINTS)
    return torch.cartesian_prod(*[axis] * points.train_x.shape[1]).reshape(-1, points.train_x.shape[1])
