"""What a recipe may say: typed models of the YAML files, validated before anything is loaded."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BenchmarkRecipe",
    "ModelSpec",
    "Normalise",
    "SourceSpec",
    "StrategyRecipe",
    "TargetSpec",
    "TaskItem",
    "TaskSpec",
    "TrainSpec",
]

Scenario = Literal["task", "domain", "class"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Model(BaseModel):
    """Base of all recipe parts: unknown words are errors, values can't be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Normalise(Model):
    """Inputs become (x - mean) / std, with x in [0, 1]. One number, or one per channel."""

    mean: float | list[float]
    std: float | list[float]


class SourceSpec(Model):
    """Where images and labels come from."""

    dataset: str
    normalise: Normalise | None = None
    path: str | None = None
    download: bool = False
    train_size: int | None = Field(None, ge=1)
    test_size: int | None = Field(None, ge=1)
    options: dict[str, Any] = {}


class PermutePixels(Model):
    """Permuted pixels: each task has one fixed permutation, drawn once from the seed."""

    kind: Literal["permute_pixels"]
    count: int = Field(ge=1)
    first: Literal["permuted", "identity"] = "permuted"
    seed: int = Field(0, ge=0)


class SplitClasses(Model):
    """Classes dealt out over the tasks, `per_task` each, in the order given or drawn from the seed."""

    kind: Literal["split_classes"]
    per_task: int = Field(ge=1)
    count: int | None = Field(None, ge=1)
    order: list[int] | None = None
    seed: int | None = Field(None, ge=0)


class Rotate(Model):
    """Images turned by a fixed angle a task, in degrees."""

    kind: Literal["rotate"]
    degrees: list[float] = Field(min_length=1)


class AvalancheTasks(Model):
    """One of Avalanche's classic benchmarks by its name, e.g. `PermutedMNIST`, with its own options."""

    kind: Literal["avalanche"]
    benchmark: str
    options: dict[str, Any] = {}


TaskSpec = Annotated[PermutePixels | SplitClasses | Rotate | AvalancheTasks, Field(discriminator="kind")]


class PermuteItem(Model):
    """A permutation inside a list of tasks."""

    seed: int = Field(ge=0)


class RotateItem(Model):
    """A rotation inside a list of tasks, in degrees."""

    degrees: float


class TaskItem(SourceSpec):
    """One task in a list of unlike tasks: a source of its own, and what is done to it."""

    name: str | None = None
    permute_pixels: PermuteItem | None = None
    rotate: RotateItem | None = None
    classes: list[int] | None = Field(None, min_length=1)


class BenchmarkRecipe(Model):
    """A task stream: benchmarks/*.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    title: str = ""
    source: SourceSpec | None = None
    scenario: Scenario = "domain"
    tasks: TaskSpec | list[TaskItem]


class ModelSpec(Model):
    """The network. `kind` is a name of `clbinn.nn.build` or `package.module:callable`; the rest are its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = "mlp"


class TrainSpec(Model):
    """The loop around the method."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(1000, ge=1)


class TargetSpec(Model):
    """Any importable class or function, with its keyword arguments."""

    target: str
    options: dict[str, Any] = {}


class StrategyRecipe(Model):
    """A learning method with its settings: strategies/*.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    title: str = ""
    target: str
    provenance: str = ""
    model: ModelSpec = ModelSpec()
    train: TrainSpec
    optimizer: TargetSpec | None = None
    plugins: list[TargetSpec] = []
    options: dict[str, Any] = {}
