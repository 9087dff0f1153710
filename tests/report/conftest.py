"""Run folders as the experiments write them, with made-up numbers that have the shape of real ones."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml


def made_up_matrix(tasks: int, seed: int, learn: float = 0.96, keep: float = 0.96, chance: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.full((tasks + 1, tasks), chance) + rng.normal(0, 0.012, (tasks + 1, tasks))
    for j in range(tasks):
        age = np.arange(tasks - j)
        level = 0.4 * learn + 0.6 * learn * keep**age
        matrix[j + 1 :, j] = level + rng.normal(0, 0.004, tasks - j)
    return np.clip(matrix, 0, 1)


def numbers(matrix: np.ndarray) -> dict[str, float]:
    tasks = matrix.shape[1]
    R = matrix[1:]
    last, own = R[-1], np.diag(R)
    drops = [max(R[i, j] for i in range(j, tasks - 1)) - last[j] for j in range(tasks - 1)]
    return {
        "average_accuracy": float(last.mean()),
        "backward_transfer": float((last - own)[:-1].mean()) if tasks > 1 else 0.0,
        "forward_transfer": 0.0,
        "forgetting": float(np.mean(drops)) if tasks > 1 else 0.0,
        "learning_accuracy": float(own.mean()),
        "average_incremental_accuracy": float(np.mean([R[i, : i + 1].mean() for i in range(tasks)])),
    }


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    tasks = matrix.shape[1]
    header = "trained_task," + ",".join(f"test_task_{j + 1}" for j in range(tasks))
    lines = [f"{i}," + ",".join(f"{x:.6f}" for x in row) for i, row in enumerate(matrix)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def write_run(
    out: Path,
    strategy: str = "bayesbinn",
    seed: int = 0,
    *,
    benchmark: str = "permuted_mnist",
    title: str = "Permuted MNIST, five tasks",
    digest: str = "1f3a9c02",
    matrix: np.ndarray | None = None,
    finished: bool = True,
    events: Sequence[dict[str, Any]] = (),
    options: dict[str, Any] | None = None,
    epochs: int = 100,
    recipe: dict[str, Any] | None = None,
    **summary: Any,
) -> Path:
    folder = out / benchmark / f"{strategy}-{digest}" / f"seed-{seed}"
    folder.mkdir(parents=True)
    matrix = made_up_matrix(5, seed) if matrix is None else matrix
    options = {"temperature": 1e-2, "lr": 1e-3, **(options or {})}
    resolved = {
        "benchmark": {
            "name": benchmark,
            "title": title,
            "scenario": "domain",
            "source": {"dataset": "mnist"},
            "tasks": {"kind": "permute_pixels", "count": int(matrix.shape[1]), "seed": 0},
        },
        "strategy": {
            "name": strategy,
            "target": f"clbinn.strategies.{strategy}",
            "provenance": "Table 13",
            "train": {"epochs": epochs, "batch_size": 100},
            "options": options,
            **(recipe or {}),
        },
        "seed": seed,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    environment = {"python": "3.11.9", "torch": "2.14.1", "machine": {"cpu": "x86_64", "threads": 1}, "git": "abc1234"}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    lines = [{"event": "start", "time": "2026-01-01T00:00:00"}, *events]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines), encoding="utf-8")
    write_matrix(folder / "accuracy_matrix.csv", matrix)
    if finished:
        everything = {
            "benchmark": benchmark,
            "strategy": strategy,
            "hash": digest,
            "seed": seed,
            **numbers(matrix),
            "nll": 0.31 + 0.002 * seed,
            "ece": 0.021,
            "seconds_train": 512.4 + seed,
            "seconds_eval": 20.5,
            "batch_norm": "running",
            "mc_samples": 100,
            "parameters": 89400,
            "weight_bits": 1,
            "memory_bytes": 715200,
            "num_tasks": int(matrix.shape[1]),
            "epochs": epochs,
            "protocol": [],
            **summary,
        }
        (folder / "summary.json").write_text(json.dumps(everything), encoding="utf-8")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder below `tmp_path`."""
    return partial(write_run, tmp_path)


@pytest.fixture
def made_up() -> Callable[..., np.ndarray]:
    return made_up_matrix
