"""summary.json: the numbers of a finished run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbinn import evaluation
from clbinn.errors import RecipeError
from clbinn.experiments import strategy_state
from clbinn.experiments.paper import Method
from clbinn.experiments.supervised_build import Learner
from clbinn.nn.batch_norm import batch_norms
from clbinn.optim.binary import BinaryOptimizer
from clbinn.recipe_settings import settings
from clbinn.recipes import catalogue, load_benchmark, load_strategy, recipe_hash
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["changes", "differences", "summarise", "summarise_one_task"]


def summarise(
    benchmark: BenchmarkRecipe,
    strategy: StrategyRecipe,
    seed: int,
    rows: list[NDArray[np.float64]],
    built: Any,
    final: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """All numbers of a run.

    Args:
        benchmark: The stream.
        strategy: The strategy's recipe.
        seed: The run's seed.
        rows: Accuracy, NLL and ECE, (tasks, 3), of the test tasks before the first and after each task.
        built: The strategy itself.
        final: The last checkpoint.
        device: Where it ran.

    Returns:
        The fields of summary.json. `weight_bits` are the bits of a weight that predicts; `memory_bytes` all that the
        learner keeps to go on learning, None where it can't tell.
    """
    R = np.array([row[:, 0] for row in rows])
    unsaved = final["unsaved"]
    return {
        "benchmark": benchmark.name,
        "strategy": strategy.name,
        "hash": recipe_hash(benchmark, strategy),
        "seed": seed,
        "average_accuracy": evaluation.average_accuracy(R),
        "backward_transfer": evaluation.backward_transfer(R),
        "forward_transfer": evaluation.forward_transfer(R),
        "forgetting": evaluation.forgetting(R),
        "learning_accuracy": evaluation.learning_accuracy(R),
        "average_incremental_accuracy": evaluation.average_incremental_accuracy(R),
        "nll": float(rows[-1][:, 1].mean()),
        "ece": float(rows[-1][:, 2].mean()),
        "seconds_train": round(final["seconds"]["train"], 3),
        "seconds_eval": round(final["seconds"]["eval"], 3),
        "batch_norm": strategy_state.setting(built, "batch_norm") if batch_norms(built.model) else None,
        "mc_samples": strategy_state.setting(built, "mc_samples"),
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "weight_bits": 1 if hasattr(built.optimizer, "sample_weights") else 32,
        "memory_bytes": None if unsaved else strategy_state.tensor_bytes(final["learner"]),
        "num_tasks": R.shape[1],
        "epochs": strategy.train.epochs,
        "device": device,
        "resume": "exact" if not unsaved else f"from the start ({', '.join(unsaved)})",
        "protocol": differences(strategy) + differences(benchmark),
    }


def summarise_one_task(
    benchmark: BenchmarkRecipe, method: Method, seed: int, trained: Learner, device: str, protocol: Sequence[str]
) -> dict[str, Any]:
    """The fields of summary.json that all runs of the paper's tables of one task share; their numbers come beside.

    Args:
        benchmark: The data.
        method: A row of a table.
        seed: The run's seed.
        trained: Network and optimizer.
        device: Where it ran.
        protocol: What is not as in the published table.
    """
    return {
        "benchmark": benchmark.name,
        "strategy": method.name,
        "hash": recipe_hash(benchmark, method),
        "seed": seed,
        "mc_samples": method.mc_samples,
        "parameters": sum(p.numel() for p in trained.network.parameters()),
        "weight_bits": 1 if isinstance(trained.optimizer, BinaryOptimizer) else 32,
        "num_tasks": 1,
        "epochs": method.train.epochs,
        "device": device,
        "protocol": list(protocol),
    }


def differences(recipe: StrategyRecipe | BenchmarkRecipe) -> list[str]:
    """How a recipe differs from the one of its name in the catalogue, e.g. `train.epochs 10 of 100`."""
    of_strategy = isinstance(recipe, StrategyRecipe)
    try:
        if recipe.name not in catalogue("strategies" if of_strategy else "benchmarks"):
            return []
        shipped = load_strategy(recipe.name) if of_strategy else load_benchmark(recipe.name)
    except RecipeError:
        return []
    return changes(recipe, shipped)


def changes(recipe: StrategyRecipe | BenchmarkRecipe, published: StrategyRecipe | BenchmarkRecipe) -> list[str]:
    """Settings that differ, `KEY OURS instead of THEIRS`; those of a stream begin with `benchmark.`."""
    ours, theirs = settings(recipe.model_dump()), settings(published.model_dump())
    prefix = "" if isinstance(recipe, StrategyRecipe) else "benchmark."
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(key), theirs.get(key)
        if mine != other and not key.endswith("download"):
            between = "of" if key == "train.epochs" else "instead of"
            found.append(f"{prefix}{key} {mine} {between} {other}")
    return found
