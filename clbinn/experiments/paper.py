"""The appendix's tables as recipes, benchmarks/paper/*.yaml: one set of data, and the methods that learn it.

A method is a strategy recipe whose `target` is an optimizer, with what its table says beside. `defaults` lie under each
method; `sweep` makes one method for each value of one field.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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
    also_mc_samples: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    pretraining: Pretraining | None = None

    @property
    def variants(self) -> list["Method"]:
        """What one training gives a run folder for: `mc_samples` as it is, and each of `also_mc_samples`."""
        others = dict.fromkeys(samples for samples in self.also_mc_samples if samples != self.mc_samples)
        return [self, *(self.model_copy(update={"mc_samples": samples}) for samples in others)]


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
        RecipeError: Something in the file or in an override is wrong; tells all that is.
    """
    of_benchmark, of_methods = recipes.split_overrides(overrides)
    source = yaml_source.read(path)
    if not isinstance(source.data, dict) or not isinstance(source.data.get("methods"), list):
        raise RecipeError(f"{path}: expected a mapping with a list of `methods`")
    defaults = source.part(("defaults",)) if "defaults" in source.data else Source({})
    methods: list[Source] = []
    for index in range(len(source.data["methods"])):
        method = copy.deepcopy(defaults)
        recipes.merge(method, source.part(("methods", index)))
        methods += _swept(method)
    for method in methods:
        recipes.apply_overrides(method, of_methods)
    benchmark = source.part(("benchmark",))
    recipes.apply_overrides(benchmark, of_benchmark, recipes.BENCHMARK_PREFIX)
    source.data.pop("defaults", None)
    source.data["methods"] = [None] * len(methods)
    for index, method in enumerate(methods):
        source.put(("methods", index), method)
    source.put(("benchmark",), benchmark)
    try:
        return Paper.model_validate(source.data)
    except ValidationError as error:
        raise_faults(recipe_faults(Paper, error, source))


def _swept(method: Source) -> list[Source]:
    if "sweep" not in method.data:
        return [method]
    sweep = method.part(("sweep",))
    del method.data["sweep"]
    [(field, values)] = sweep.data.items()
    swept = [copy.deepcopy(method) for _ in values]
    for index, one in enumerate(swept):
        one.put(tuple(field.split(".")), sweep.part((field, index)))
    return swept
