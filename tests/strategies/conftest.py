"""Small streams made in memory, and how well a strategy does on them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.core import SupervisedPlugin
from torch import nn
from torch.utils.data import TensorDataset

from clbinn.nn import MLP
from clbinn.strategies.vcl import VCL

FEATURES, CLASSES = 12, 3


def blobs(task: int, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes around three corners; each task has its features in another order."""
    y = torch.arange(count) % CLASSES
    centres = torch.zeros(CLASSES, FEATURES)
    centres[:, :CLASSES] = 3 * torch.eye(CLASSES)
    x = centres[y] + torch.randn(count, FEATURES, generator=generator)
    return x[:, torch.randperm(FEATURES, generator=torch.Generator().manual_seed(task))], y


class Tasks(TensorDataset):
    """A tensor dataset with targets, as Avalanche wants it."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__(x, y)
        self.targets = y.tolist()


@pytest.fixture
def make_stream() -> Callable[..., Any]:
    """A function that makes a benchmark of `tasks` blob tasks; other options are those of Avalanche's datasets."""

    def make(tasks: int = 2, count: int = 60, labelled: bool = False, **options: Any) -> Any:
        generator = torch.Generator().manual_seed(7)
        streams = {
            name: [
                _make_taskaware_classification_dataset(
                    Tasks(*blobs(task, count, generator)), task_labels=task if labelled else 0, **options
                )
                for task in range(tasks)
            ]
            for name in ("train", "test")
        }
        return with_task_labels(with_classes_timeline(benchmark_from_datasets(**streams)))

    return make


@pytest.fixture
def transform_groups() -> dict[str, tuple[Any, None]]:
    """Of a dataset: `train` writes 100 into the first feature of each image, `eval` 200."""
    return {name: (partial(_signed, number), None) for name, number in (("train", 100.0), ("eval", 200.0))}


def _signed(number: float, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full_like(x[:1], number), x[1:]])


@pytest.fixture
def make_net() -> Callable[..., MLP]:
    """A function that makes the real network for the blobs, always the same one."""

    def make(hidden: int = 16, **options: Any) -> MLP:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return MLP(FEATURES, [hidden], CLASSES, **{"norm": "none", "bias": True, **options})

    return make


class Outputs(SupervisedPlugin):
    """Keeps what a strategy says about the samples that it is evaluated on."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []

    def after_eval_iteration(self, strategy: Any, **_: Any) -> None:
        self.logits.append(strategy.mb_output.clone())
        self.targets.append(strategy.mb_y.clone())


@pytest.fixture
def make_vcl(make_net: Callable[..., MLP]) -> Callable[..., VCL]:
    """A function that makes VCL with few samples for the blobs."""

    def make(model: nn.Module | None = None, **options: Any) -> VCL:
        given = {"lr": 1e-2, "train_mb_size": 20, "train_epochs": 3, "num_samples": 4, "mc_samples": 12} | options
        return VCL(model=model or make_net(), evaluator=None, **given)

    return make


@pytest.fixture
def evaluate() -> Callable[..., tuple[torch.Tensor, float]]:
    """A function that gives a strategy's outputs on an experience, and its accuracy."""

    def run(strategy: Any, experience: Any) -> tuple[torch.Tensor, float]:
        outputs = Outputs()
        strategy.plugins.insert(0, outputs)
        strategy.eval([experience])
        strategy.plugins.remove(outputs)
        logits, targets = torch.cat(outputs.logits), torch.cat(outputs.targets)
        return logits, (logits.argmax(1) == targets).float().mean().item()

    return run


@pytest.fixture
def listen() -> Callable[..., None]:
    """A function that has a strategy call `heard()` at a moment, such as `before_forward`."""

    def listen(strategy: Any, moment: str, heard: Callable[[], Any]) -> None:
        plugin = SupervisedPlugin()
        setattr(plugin, moment, lambda *_, **__: heard())
        strategy.plugins.insert(0, plugin)

    return listen


@pytest.fixture
def slow_fisher() -> Callable[[nn.Module, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]:
    """A function that gives Σ_n (∂ ln p(y_n | x_n) / ∂θ)² by a backward pass for each sample."""

    def slow(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        fisher = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for one_x, one_y in zip(x, y, strict=True):
            log_p = model(one_x.unsqueeze(0)).log_softmax(1)[0, one_y]
            for name, gradient in zip(fisher, torch.autograd.grad(log_p, list(model.parameters())), strict=True):
                fisher[name] += gradient.square()
        return fisher

    return slow
