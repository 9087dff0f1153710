"""What a recipe may say: typed models of the YAML files, validated before anything is loaded.

`python -m clbinn.schema FOLDER` writes the same rules as JSON schemas, for editors that complete and check YAML.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

__all__ = [
    "DATASETS",
    "TASK_KINDS",
    "AvalancheTasks",
    "BenchmarkRecipe",
    "ModelSpec",
    "Normalise",
    "PermuteItem",
    "PermutePixels",
    "Rotate",
    "RotateItem",
    "SourceSpec",
    "SplitClasses",
    "StrategyRecipe",
    "TargetSpec",
    "TaskItem",
    "TaskSpec",
    "TrainSpec",
    "json_schemas",
]

DATASETS = (
    "digits",
    "mnist5k",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "idx",
    "npz",
    "images",
    "synthetic",
)
"""Names that `dataset:` knows; anything else is a callable, `package.module:name`."""

READ_FROM_PATH = ("idx", "npz", "images")

MAX_NAME = 64  # characters
NAME = r"^[a-z0-9][a-z0-9_]*$"
TARGET = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*$"
CALLABLE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
KIND = r"^[A-Za-z_]\w*((\.[A-Za-z_]\w*)*:[A-Za-z_]\w*)?$"

Name = Annotated[str, Field(pattern=NAME, max_length=MAX_NAME)]
Target = Annotated[str, Field(pattern=TARGET)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
SeedOrRun = Annotated[
    Annotated[Seed, Tag("<number>")] | Annotated[Literal["run"], Tag("<run>")],
    Discriminator(lambda seed: "<run>" if isinstance(seed, str) else "<number>"),
]
"""A number, or `run`: the seed of the run at hand."""
Count = Annotated[int, Field(ge=1, le=100_000)]
Scenario = Literal["task", "domain", "class"]


def _number_or_list(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise _fault("expected a number, or a list of numbers, one per channel") from None


Channels = Annotated[float | list[float], WrapValidator(_number_or_list)]


def _fault(message: str) -> PydanticCustomError:
    return PydanticCustomError("recipe", message)


class Model(BaseModel):
    """Base of all recipe parts: unknown words are errors, types are not guessed, values can't be changed."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # options may be infinite: as null they would be none, and share its hash
        protected_namespaces=(),
    )


class Normalise(Model):
    """Inputs become (x - mean) / std, with x in [0, 1]. One number, or one per channel."""

    mean: Channels
    std: Channels

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: float | list[float]) -> float | list[float]:
        if not all(1e-30 <= number <= 1e30 for number in (std if isinstance(std, list) else [std])):
            raise _fault("must be from 1e-30 to 1e30")
        return std


class SourceSpec(Model):
    """Where images and labels come from."""

    dataset: str
    normalise: Normalise | None = None
    path: str | None = Field(None, min_length=1, validate_default=True)
    download: bool = False
    train_size: int | None = Field(None, ge=1)
    test_size: int | None = Field(None, ge=1)
    options: dict[str, Any] = {}

    @field_validator("dataset")
    @classmethod
    def _dataset_is_known(cls, dataset: str) -> str:
        if dataset not in DATASETS and not re.fullmatch(CALLABLE, dataset):
            raise PydanticCustomError("unknown_dataset", "unknown dataset")
        return dataset

    @field_validator("path")
    @classmethod
    def _path_fits(cls, path: str | None, info: ValidationInfo) -> str | None:
        dataset = info.data.get("dataset")
        if path is None and dataset in READ_FROM_PATH:
            raise _fault(f"dataset '{dataset}' needs a 'path'")
        if path is not None and dataset is not None and dataset not in READ_FROM_PATH:
            raise _fault(f"only {', '.join(READ_FROM_PATH)} are read from a 'path'; {dataset} is not")
        if path is not None and ".." in re.split(r"[/\\]", path):
            raise _fault("a path can't climb with '..'; give the full path, or keep the data under --data-root")
        return path


class PermutePixels(Model):
    """Permuted pixels: each task has one fixed permutation, drawn once from the seed; `run` is the seed of each run."""

    kind: Literal["permute_pixels"]
    count: Count
    first: Literal["permuted", "identity"] = "permuted"
    seed: SeedOrRun = 0


class SplitClasses(Model):
    """Classes dealt out over the tasks, `per_task` each, in the order given or drawn from the seed."""

    kind: Literal["split_classes"]
    per_task: int = Field(ge=1)
    count: Count | None = None
    order: list[int] | None = Field(None, min_length=1)
    seed: SeedOrRun | None = None

    @field_validator("order")
    @classmethod
    def _each_class_once(cls, order: list[int] | None) -> list[int] | None:
        if order is not None and len(set(order)) < len(order):
            raise _fault("a class stands in the order twice")
        return order

    @field_validator("seed")
    @classmethod
    def _given_or_drawn(cls, seed: int | Literal["run"] | None, info: ValidationInfo) -> int | Literal["run"] | None:
        if seed is not None and info.data.get("order") is not None:
            raise _fault("classes are in the order given or drawn from the seed: keep 'order' or 'seed'")
        return seed


class Rotate(Model):
    """Images turned by a fixed angle a task, in degrees."""

    kind: Literal["rotate"]
    degrees: list[float] = Field(min_length=1)


class AvalancheTasks(Model):
    """One of Avalanche's classic benchmarks by its name, e.g. `PermutedMNIST`, with its own options."""

    kind: Literal["avalanche"]
    benchmark: str
    options: dict[str, Any] = {}


class PermuteItem(Model):
    """A permutation inside a list of tasks."""

    seed: Seed


class RotateItem(Model):
    """A rotation inside a list of tasks, in degrees."""

    degrees: float


class TaskItem(SourceSpec):
    """One task in a list of unlike tasks: a source of its own, and what is done to it."""

    name: str | None = Field(None, min_length=1)
    permute_pixels: PermuteItem | None = None
    rotate: RotateItem | None = None
    classes: list[int] | None = Field(None, min_length=1)


TASK_KINDS = ("permute_pixels", "split_classes", "rotate", "avalanche")


def _task_tag(tasks: Any) -> str | None:
    """Which form of `tasks:` a value means to be, so that only that form's faults are told."""
    if isinstance(tasks, list):
        return "<list>"
    kind = tasks.get("kind") if isinstance(tasks, dict) else getattr(tasks, "kind", None)
    return f"<{kind}>" if kind in TASK_KINDS else None


TaskSpec = PermutePixels | SplitClasses | Rotate | AvalancheTasks
Tasks = Annotated[
    Annotated[PermutePixels, Tag("<permute_pixels>")]
    | Annotated[SplitClasses, Tag("<split_classes>")]
    | Annotated[Rotate, Tag("<rotate>")]
    | Annotated[AvalancheTasks, Tag("<avalanche>")]
    | Annotated[Annotated[list[TaskItem], Field(min_length=1)], Tag("<list>")],
    Discriminator(_task_tag),
]


class BenchmarkRecipe(Model):
    """A task stream: benchmarks/*.yaml."""

    name: Name
    title: str = ""
    source: SourceSpec | None = None
    scenario: Scenario = "domain"
    tasks: Tasks

    @field_validator("tasks")
    @classmethod
    def _source_where_it_is_used(cls, tasks: Any, info: ValidationInfo) -> Any:
        if "source" not in info.data:  # it has a fault of its own
            return tasks
        brings_data = isinstance(tasks, list | AvalancheTasks)
        if info.data["source"] is None and not brings_data:
            raise _fault("these tasks need a 'source' beside them, e.g. source: {dataset: digits}")
        if info.data["source"] is not None and brings_data:
            raise _fault(
                "these tasks name their own data; remove 'source', or write `source: null` over an inherited one"
            )
        return tasks


class ModelSpec(Model):
    """The network. `kind` is a name of `clbinn.nn.build` or `package.module:callable`; the rest are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = Field("mlp", pattern=KIND)


class TrainSpec(Model):
    """The loop around the method."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(1000, ge=1)


class TargetSpec(Model):
    """Any importable class or function, with its keyword arguments."""

    target: Target
    options: dict[str, Any] = {}


class StrategyRecipe(Model):
    """A learning method with its settings: strategies/*.yaml."""

    name: Name
    title: str = ""
    target: Target
    provenance: str = ""
    model: ModelSpec = ModelSpec()
    train: TrainSpec
    optimizer: TargetSpec | None = None
    plugins: list[TargetSpec] = []
    options: dict[str, Any] = {}


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON schemas by name: `benchmark` and `strategy`, with `extends` as recipes on disk may have it."""
    schemas = {}
    for name, model in (("benchmark", BenchmarkRecipe), ("strategy", StrategyRecipe)):
        schema = model.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["properties"]["extends"] = {
            "type": "string",
            "description": "Recipe that this one takes over: a name of the catalogue, or a path from this file.",
        }
        for part in schema["$defs"].values():
            part.pop("required", None)  # the rest may come from the recipe that is extended
        schema["required"] = ["name"]
        tasks = schema["properties"].get("tasks", {})
        if "oneOf" in tasks:  # without its kind, a part of a mapping fits several
            tasks["anyOf"] = tasks.pop("oneOf")
        schemas[name] = schema
    return schemas


def _write_json_schemas() -> None:
    import json
    import sys
    from pathlib import Path

    if len(sys.argv) != 2:
        sys.exit("usage: python -m clbinn.schema FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in json_schemas().items():
        (folder / f"{name}.json").write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write_json_schemas()
