"""The appendix's tables as recipes, benchmarks/paper/*.yaml: one set of data, and the methods that learn it.

A method is a strategy recipe whose `target` is an optimizer, with what its table says beside. `defaults` lie under each
method; `sweep` makes one method for each value of one field.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from clbinn import recipes, yaml_source
from clbinn.errors import RecipeError
from clbinn.recipe_faults import recipe_faults
from clbinn.schema import BenchmarkRecipe, Model, Name, StrategyRecipe, Target
from clbinn.yaml_source import Source, raise_faults

__all__ = ["Method", "Paper", "Pretraining", "ScheduleSpec", "load_paper", "papers"]


class ScheduleSpec(Model):
    """A schedule of `clbinn.optim.schedules`; `total` is the training's length where it takes one and none is given."""

    target: Target
    options: dict[str, Any] = Field(default_factory=dict)
    unit: Literal["epoch", "iteration"] = "epoch"


class Pretraining(Model):
    """A real network trained by Adam first, from which LR-net's probabilities start."""

    epochs: int = Field(ge=1)
    lr: float = Field(1e-3, gt=0)


class Method(StrategyRecipe):
    """One row of a table."""

    schedules: list[ScheduleSpec] = Field(default_factory=list)
    validation: float = Field(0.1, ge=0, lt=1)
    augment: bool = False
    data_factor: float = Field(1.0, gt=0)
    mc_samples: int = Field(0, ge=0)
    also_mc_samples: list[int] = Field(default_factory=list)
    pretraining: Pretraining | None = None


class Paper(Model):
    """One file of benchmarks/paper."""

    name: Name
    title: str
    tables: list[str] = Field(min_length=1)
    trainer: Literal["supervised", "synthetic"] = "supervised"
    benchmark: BenchmarkRecipe
    seeds: int = Field(5, ge=1)
    methods: list[Method] = Field(min_length=1)


def papers() -> dict[str, Path]:
    """The shipped files: name → path."""
    return {path.stem: path for path in sorted((recipes.catalogue_folder("benchmarks") / "paper").glob("*.yaml"))}


def load_paper(path: Path, overrides: Sequence[str] = ()) -> Paper:
    """One file, with the overrides laid over each of its methods, or (`benchmark.…`) over its data.

    Raises:
        RecipeError: something in the file or in an override is wrong; tells all that is.
    """
    of_benchmark, of_methods = recipes.split_overrides(overrides)
    data = yaml_source.read(path).data
    if not isinstance(data, dict) or not isinstance(data.get("methods"), list):
        raise RecipeError(f"{path}: expected a mapping with a list of `methods`")
    defaults = data.pop("defaults", {})
    methods = [one for method in data["methods"] for one in _swept(_merged(defaults, method))]
    data["benchmark"] = _overridden(data.get("benchmark"), of_benchmark, recipes.BENCHMARK_PREFIX)
    data["methods"] = [_overridden(method, of_methods) for method in methods]
    try:
        return Paper.model_validate(data)
    except ValidationError as error:
        raise_faults(recipe_faults(Paper, error, _source(data, str(path))))


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two mappings laid over each other, key by key."""
    result = copy.deepcopy(under)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _swept(method: dict[str, Any]) -> list[dict[str, Any]]:
    sweep = method.pop("sweep", None)
    if not sweep:
        return [method]
    [(field, values)] = sweep.items()
    steps = field.split(".")
    swept = []
    for value in values:
        one = inner = copy.deepcopy(method)
        for step in steps[:-1]:
            inner = inner[step]
        inner[steps[-1]] = value
        swept.append(one)
    return swept


def _overridden(data: Any, overrides: Sequence[str], prefix: str = "") -> Any:
    source = _source(data, "paper recipe")
    for override in overrides:
        recipes.apply_override(source, override, prefix)
    return source.data


def _source(data: Any, name: str) -> Source:
    return yaml_source.parse(yaml.safe_dump(data, sort_keys=False), name, whole=True)
