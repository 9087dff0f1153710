"""From recipes to objects: the task stream, the network, and the strategy that learns it."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clbinn.errors import RecipeError, UserError
from clbinn.evaluation.metrics import PredictionMetrics
from clbinn.experiments.rng import seed_all
from clbinn.schema import BenchmarkRecipe, StrategyRecipe, TargetSpec
from clbinn.seeding import derive_seed
from clbinn.targets import check_options, import_target

__all__ = ["build_benchmark", "build_strategy", "check_strategy", "choose_device"]


# what every strategy gets from the recipe's other parts and from the run
_GIVEN = ("model", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device", "evaluator", "plugins")


def choose_device(device: str) -> str:
    """`auto` is the first CUDA device, or the CPU where there is none.

    Raises:
        UserError: The device doesn't exist here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} can't be used: {str(error).splitlines()[0].partition('. ')[0]}") from None
    return device


def build_benchmark(recipe: BenchmarkRecipe, seed: int, data_root: Path | None, download: bool | None) -> Any:
    """The Avalanche benchmark of a recipe for the run of a seed, with `info`."""
    from clbinn.benchmarks import load

    of_run = getattr(recipe.tasks, "seed", None) == "run"
    return load(recipe, data_root=data_root, seed=seed if of_run else None, download=download)


def check_strategy(recipe: StrategyRecipe) -> None:
    """Everything of a recipe's class and network that can be checked before data are loaded.

    Raises:
        RecipeError: The target can't be imported, or an option is unknown, of another type, or missing.
    """
    from clbinn.nn.build import check_model

    target = import_target(recipe.target)
    given = [*_GIVEN, *(["optimizer"] if recipe.optimizer is not None else [])]
    check_options(target, recipe.options, "options", given=given + (["seed"] if _takes(target, "seed") else []))
    check_model(recipe.model)


def build_strategy(recipe: StrategyRecipe, benchmark: Any, seed: int, device: str) -> tuple[Any, PredictionMetrics]:
    """The Avalanche strategy of a recipe with a new network, and the metrics that its evaluations fill.

    The network already has a head for every task of the stream (row 0 of the accuracy matrix tests them all).

    Raises:
        RecipeError: The target, the options, the network, the optimizer or a plugin of the recipe can't be used.
    """
    from clbinn.benchmarks import FastLoadingPlugin
    from clbinn.nn.build import build_model
    from clbinn.strategies.bayesbinn_plugin import BayesBiNNPlugin
    from clbinn.strategies.multi_head import MultiHead

    info = benchmark.info
    seed_all(seed, "initialisation")
    model = build_model(recipe.model, info.input_shape, info.num_classes)
    if info.scenario == "task":
        model = _call(MultiHead, (model,), {}, f"model {recipe.model.kind}")
    model = model.to(device)
    metrics = PredictionMetrics()
    given: dict[str, Any] = {
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": recipe.train.batch_size,
        "train_epochs": recipe.train.epochs,
        "eval_mb_size": recipe.train.eval_batch_size,
        "device": device,
        "evaluator": _evaluator(metrics),
        "plugins": [FastLoadingPlugin(seed), *_plugins(recipe, seed)],
    }
    if recipe.optimizer is not None:
        given["optimizer"] = _optimizer(recipe.optimizer, model, benchmark, seed)
    target = import_target(recipe.target)
    if _takes(target, "seed"):
        given["seed"] = seed
    check_options(target, recipe.options, "options", given=given)
    try:
        strategy = target(**given, **recipe.options)
    except (TypeError, ValueError, AssertionError, UserError) as error:
        raise RecipeError(f"strategy {recipe.name}: {recipe.target}: {error}") from error
    for plugin in strategy.plugins:
        if isinstance(plugin, BayesBiNNPlugin):  # the optimizer has the body alone: heads that come join it
            plugin.adopt(strategy)
    _grow_heads(strategy, benchmark)
    return strategy, metrics


def _grow_heads(strategy: Any, benchmark: Any) -> None:
    # what the first evaluation of the whole test stream does; a resumed run, which skips that, needs the same network
    strategy.is_training = False
    for experience in benchmark.test_stream:
        strategy.experience = experience
        strategy.model = strategy.model_adaptation()
    strategy.experience = None


def _optimizer(spec: TargetSpec, model: nn.Module, benchmark: Any, seed: int) -> Any:
    target = import_target(spec.target, "optimizer.target")
    given: dict[str, Any] = {}
    if _takes(target, "num_data"):
        given["num_data"] = len(benchmark.train_stream[0].dataset)
    if _takes(target, "seed"):
        given["seed"] = derive_seed(seed, "optimizer")
    options = given | spec.options
    check_options(target, options, "optimizer.options", given=("params",))
    return _call(target, (model.parameters(),), options, f"optimizer {spec.target}")


def _plugins(recipe: StrategyRecipe, seed: int) -> list[Any]:
    plugins = []
    for index, spec in enumerate(recipe.plugins):
        target = import_target(spec.target, f"plugins[{index}].target")
        options = ({"seed": seed} if _takes(target, "seed") else {}) | spec.options
        check_options(target, options, f"plugins[{index}].options")
        plugins.append(_call(target, (), options, f"plugin {spec.target}"))
    return plugins


def _call(target: Callable[..., Any], arguments: tuple[Any, ...], options: Mapping[str, Any], what: str) -> Any:
    try:
        return target(*arguments, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise RecipeError(f"{what}: {error}") from error


def _takes(target: Any, name: str) -> bool:
    """Whether the function, or the constructor of the class or of one that it passes keywords on to, takes the name."""
    bases = target.__mro__ if inspect.isclass(target) else ()
    for function in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [target]:
        parameters = inspect.signature(function).parameters
        if name in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def _evaluator(metrics: PredictionMetrics) -> Any:
    from avalanche.training.plugins import EvaluationPlugin

    def ignore(strategy: Any, **_: Any) -> None:
        """Nothing of ours is measured while training: skip the calls at each step of Avalanche's own strategies."""

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No loggers specified")
        evaluator = EvaluationPlugin(metrics, collect_all=False)
    for moment in ("training_iteration", "forward", "backward", "update"):
        setattr(evaluator, f"before_{moment}", ignore)
        setattr(evaluator, f"after_{moment}", ignore)
    return evaluator
