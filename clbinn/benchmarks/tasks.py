"""From a recipe to the tasks of a stream: which images, turned or permuted how, under which labels."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, RecipeError
from ..schema import BenchmarkRecipe, Normalise, PermutePixels, Rotate, SourceSpec, SplitClasses, TaskItem
from .dataset import DeviceCopies, TensorTask
from .sources import Source

__all__ = ["Task", "Tasks", "digest", "make_tasks", "permutations"]

Scenario = Literal["task", "domain", "class"]
Load = Callable[[SourceSpec], Source]


@dataclass(frozen=True)
class Task:
    """One task: its data, and the labels that occur in it, ascending."""

    name: str
    train: TensorTask
    test: TensorTask
    classes: list[int]


@dataclass(frozen=True)
class Tasks:
    """The tasks of a stream, and SHA-256 digests (16 hexadecimal digits) of what they were made from."""

    tasks: list[Task]
    hashes: dict[str, str] = field(default_factory=dict)


def make_tasks(recipe: BenchmarkRecipe, load: Load, seed: int | None = None) -> Tasks:
    """The tasks of a recipe.

    Args:
        recipe: Any recipe but one of kind `avalanche`.
        load: Turns a source's specification into its images; called once for each that differs.
        seed: Replaces the recipe's seed of permutations and class orders; in a list of tasks it is added to theirs.

    Raises:
        RecipeError: The recipe asks for what the source doesn't have.
        DataError: Data are missing, damaged or don't fit each other.
    """
    if isinstance(recipe.tasks, list):
        return _listed(recipe.tasks, recipe, load, seed)
    if recipe.source is None:
        raise RecipeError(f"Benchmark {recipe.name} needs a `source`.")
    material = _Material(load(recipe.source), recipe.source.normalise)
    hashes = {f"data:{recipe.source.dataset}": material.digest}
    if isinstance(recipe.tasks, PermutePixels):
        tasks = _permuted(recipe.tasks, recipe.scenario, material, seed, hashes)
    elif isinstance(recipe.tasks, Rotate):
        tasks = _rotated(recipe.tasks, recipe.scenario, material)
    elif isinstance(recipe.tasks, SplitClasses):
        tasks = _split(recipe.tasks, recipe.scenario, material, seed, hashes)
    else:
        raise RecipeError(f"Tasks of kind {recipe.tasks.kind!r} are not made from a source.")
    return Tasks(tasks, hashes)


def permutations(pixels: int, count: int, seed: int) -> list[Tensor]:
    """The first `count` permutations of `range(pixels)` that the seed gives, int64.

    NumPy's `RandomState`, whose numbers never change between versions; Avalanche's `PermutedMNIST(seed=...)` draws the
    same ones.
    """
    random = np.random.RandomState(seed)
    return [torch.from_numpy(random.permutation(pixels)).long() for _ in range(count)]


def digest(*tensors: Tensor) -> str:
    """SHA-256 of shapes, types and contents, the first 16 hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()[:16]


class _Material:
    """A source on the device: its tensors are shared by all tasks that are cut from it."""

    def __init__(self, source: Source, normalise: Normalise | None) -> None:
        self.source = source
        self.mean, self.std = _moments(source, normalise)
        self.images = DeviceCopies(source.train_images), DeviceCopies(source.test_images)
        self.targets = DeviceCopies(source.train_targets), DeviceCopies(source.test_targets)

    @functools.cached_property
    def digest(self) -> str:
        """Of images and labels."""
        return digest(*self.source.tensors)

    def task(
        self,
        name: str,
        renaming: Mapping[int, int],
        degrees: float = 0.0,
        permutation: Tensor | None = None,
    ) -> Task:
        """The images of the classes in `renaming`, under the new label that it gives each."""
        if degrees % 360 != 0 and len(self.source.shape) != 3:
            raise RecipeError(f"{self.source.name} can't be rotated: its inputs have shape {self.source.shape}.")
        parts = []
        for part, images, targets in zip(("training", "test"), self.images, self.targets, strict=True):
            rows, renamed = _choose(targets, renaming)
            if len(renamed.tensor) == 0:
                raise DataError(f"{self.source.name}: task {name!r} has no {part} images.")
            parts.append(
                TensorTask(
                    images,
                    renamed,
                    rows=rows,
                    degrees=degrees,
                    permutation=permutation,
                    mean=self.mean,
                    std=self.std,
                )
            )
        return Task(name, parts[0], parts[1], sorted(renaming.values()))


def _choose(targets: DeviceCopies, renaming: Mapping[int, int]) -> tuple[Tensor | None, DeviceCopies]:
    old = targets.tensor
    new = torch.full((1 + max(int(old.max()), *renaming),), -1)
    new[list(renaming)] = torch.tensor(list(renaming.values()))
    renamed = new[old]
    if torch.equal(renamed, old):
        return None, targets
    rows = (renamed >= 0).nonzero().squeeze(1)
    return (None if len(rows) == len(old) else rows), DeviceCopies(renamed[rows])


def _moments(source: Source, normalise: Normalise | None) -> tuple[float | Sequence[float], float | Sequence[float]]:
    if normalise is None:
        return 0.0, 1.0
    for word, value in (("mean", normalise.mean), ("std", normalise.std)):
        if isinstance(value, list) and len(value) != source.shape[0]:
            raise RecipeError(
                f"normalise.{word} has {len(value)} numbers, but {source.name} has {source.shape[0]} channel(s)."
            )
    return normalise.mean, normalise.std


def _renaming(scenario: Scenario, classes: Sequence[int], start: int) -> dict[int, int]:
    """New labels of a task's classes: counted on over the stream in the class scenario, else from 0 in each task."""
    first = start if scenario == "class" else 0
    return dict(zip(classes, range(first, first + len(classes)), strict=True))


def _seed(recipe: int | Literal["run"], given: int | None) -> int:
    """The seed given, or that of the recipe."""
    if given is not None:
        return given
    if recipe == "run":
        raise RecipeError("tasks.seed is 'run', the seed of each run: give `benchmarks.load` one (seed=0).")
    return recipe


def _whole(scenario: Scenario, material: _Material, position: int) -> dict[int, int]:
    """New labels of a task of all classes."""
    classes = material.source.classes
    return _renaming(scenario, classes, position * len(classes))


def _permuted(
    spec: PermutePixels, scenario: Scenario, material: _Material, seed: int | None, hashes: dict[str, str]
) -> list[Task]:
    pixels = int(np.prod(material.source.shape))
    drawn: list[Tensor | None] = [*permutations(pixels, spec.count, _seed(spec.seed, seed))]
    if spec.first == "identity":
        drawn[0] = None
    hashes["permutations"] = digest(*(torch.arange(pixels) if p is None else p for p in drawn))
    return [
        material.task(
            "not permuted" if permutation is None else f"permutation {i + 1}",
            _whole(scenario, material, i),
            permutation=permutation,
        )
        for i, permutation in enumerate(drawn)
    ]


def _rotated(spec: Rotate, scenario: Scenario, material: _Material) -> list[Task]:
    return [
        material.task(f"{degrees:g}°", _whole(scenario, material, i), degrees=degrees)
        for i, degrees in enumerate(spec.degrees)
    ]


def _split(
    spec: SplitClasses, scenario: Scenario, material: _Material, seed: int | None, hashes: dict[str, str]
) -> list[Task]:
    order = _class_order(spec, material.source, seed)
    hashes["class_order"] = digest(torch.tensor(order))
    tasks = []
    for i in range(0, len(order), spec.per_task):
        classes = order[i : i + spec.per_task]
        renaming = {c: c for c in classes} if scenario == "class" else _renaming(scenario, classes, i)
        tasks.append(material.task("classes " + ", ".join(map(str, classes)), renaming))
    return tasks


def _class_order(spec: SplitClasses, source: Source, seed: int | None) -> list[int]:
    classes = source.classes
    seed = None if spec.seed is None and seed is None else _seed(spec.seed or 0, seed)
    order = classes
    if spec.order is not None:
        order = spec.order
        unknown = sorted(set(order) - set(classes))
        if unknown:
            raise RecipeError(f"tasks.order names {unknown}, but the classes of {source.name} are {classes}.")
    elif seed is not None:
        order = np.random.RandomState(seed).permutation(classes).tolist()
    count = spec.count or len(order) // spec.per_task
    needed = count * spec.per_task
    if needed > len(order) or needed == 0:
        raise RecipeError(
            f"{count or 1} task(s) of {spec.per_task} classes need {needed or spec.per_task}; there are {len(order)}."
        )
    if spec.count is None and needed != len(order):
        raise RecipeError(
            f"{len(order)} classes can't be dealt out {spec.per_task} a task without a rest: set tasks.count."
        )
    return order[:needed]


def _listed(items: list[TaskItem], recipe: BenchmarkRecipe, load: Load, seed: int | None) -> Tasks:
    if not items:
        raise RecipeError(f"Benchmark {recipe.name} has an empty list of tasks.")
    shared: dict[str, _Material] = {}
    tasks: list[Task] = []
    hashes: dict[str, str] = {}
    start = 0
    for i, item in enumerate(items, 1):
        material = _material(item, recipe, load, shared)
        hashes[f"data:{item.dataset}:{i}"] = material.digest
        classes = _known(item, material.source)
        permutation = None
        if item.permute_pixels is not None:
            pixels = int(np.prod(material.source.shape))
            permutation = permutations(pixels, 1, (item.permute_pixels.seed + (seed or 0)) % 2**32)[0]
            hashes[f"permutation:{i}"] = digest(permutation)
        degrees = 0.0 if item.rotate is None else item.rotate.degrees
        renaming = _renaming(recipe.scenario, classes, start)
        start += len(classes)
        tasks.append(material.task(item.name or _name(item), renaming, degrees, permutation))
        if tasks[-1].train.shape != tasks[0].train.shape:
            raise DataError(
                f"The tasks of a stream must have inputs of one shape: {tasks[0].name} has {tasks[0].train.shape}, "
                f"{tasks[-1].name} has {tasks[-1].train.shape}."
            )
    return Tasks(tasks, hashes)


def _material(item: TaskItem, recipe: BenchmarkRecipe, load: Load, shared: dict[str, _Material]) -> _Material:
    """The item's source; items that say the same share it."""
    normalise = item.normalise or (recipe.source.normalise if recipe.source else None)
    spec = SourceSpec(**{name: getattr(item, name) for name in SourceSpec.model_fields} | {"normalise": normalise})
    key = spec.model_dump_json()
    if key not in shared:
        shared[key] = _Material(load(spec), normalise)
    return shared[key]


def _known(item: TaskItem, source: Source) -> list[int]:
    classes = item.classes or source.classes
    if len(set(classes)) < len(classes) or not set(classes) <= set(source.classes):
        raise RecipeError(f"classes must name classes of {item.dataset} once each, from {source.classes}: {classes}.")
    return classes


def _name(item: TaskItem) -> str:
    words = [item.dataset]
    if item.classes is not None:
        words.append("classes " + ", ".join(map(str, item.classes)))
    if item.rotate is not None:
        words.append(f"{item.rotate.degrees:g}°")
    if item.permute_pixels is not None:
        words.append(f"permutation of seed {item.permute_pixels.seed}")
    return ", ".join(words)
