import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from clbinn.experiments import checkpoint
from clbinn.recipes import load_strategy
from clbinn.schema import BenchmarkRecipe, StrategyRecipe


def make_stream(count: int = 2, **changes) -> BenchmarkRecipe:
    recipe = {
        "name": "tiny",
        "source": {"dataset": "digits", "train_size": 300, "test_size": 100},
        "tasks": {"kind": "permute_pixels", "count": count},
    }
    return BenchmarkRecipe.model_validate(recipe | changes)


def make_strategy(name: str = "bayesbinn", *overrides: str) -> StrategyRecipe:
    small = ["train.epochs=3", "train.batch_size=50", "model.hidden=[20]"]
    if name.startswith("bayesbinn"):
        small += ["options.mc_samples=5", "options.lr=0.01", "options.temperature=0.5"]
    return load_strategy(name, [*small, *overrides])


def make_plain(**changes) -> StrategyRecipe:
    """Avalanche's own Naive, which knows nothing of this package."""
    recipe = {
        "name": "plain",
        "target": "avalanche.training.Naive",
        "model": {"kind": "mlp", "hidden": [20], "norm": "batch", "bias": True, "dropout": 0.2},
        "optimizer": {"target": "torch.optim.Adam", "options": {"lr": 0.01}},
        "train": {"epochs": 3, "batch_size": 50},
    }
    return StrategyRecipe.model_validate(recipe | changes)


def outcome(path: Path) -> dict:
    """What two runs have in common if they are the same: all of it but times."""
    lines = (path / "events.jsonl").read_text().splitlines()
    events = [{k: v for k, v in json.loads(line).items() if k not in ("time", "seconds")} for line in lines]
    summary = json.loads((path / "summary.json").read_text())
    return {
        "events": events,
        "matrix": (path / "accuracy_matrix.csv").read_bytes(),
        "summary": {k: v for k, v in summary.items() if not k.startswith("seconds")},
        "learner": checkpoint.load(path / checkpoint.CURRENT)["learner"],
    }


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def fork(work: Callable[[], None]) -> int:
    """Do something in a process of its own, which starts at once as all modules are loaded; its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        work()
        status = 0
    except BaseException as error:
        status = getattr(error, "status", 71)
    finally:
        os._exit(status)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        stream=make_stream, strategy=make_strategy, plain=make_plain, outcome=outcome, same=same, fork=fork
    )
