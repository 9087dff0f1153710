"""`load`: a recipe becomes an ordinary Avalanche benchmark."""

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset

from ..errors import RecipeError
from ..schema import AvalancheTasks, BenchmarkRecipe, SourceSpec
from .avalanche_tasks import load_avalanche
from .dataset import TensorTask
from .sources import Source, load_source
from .tasks import Task, make_tasks

__all__ = ["StreamInfo", "load"]


@dataclass(frozen=True)
class StreamInfo:
    """What a stream is.

    Attributes:
        name: The recipe's name.
        title: The recipe's title.
        scenario: "task" (labels from 0 in each task, and the task's number is given), "domain" (labels from 0 in each
            task, one shared head) or "class" (each task brings new labels, one shared head that has them all).
        input_shape: Shape of one input.
        num_classes: Outputs that a shared head needs: the largest label plus 1.
        classes_per_task: The labels that occur in each task, ascending, as the network has to output them.
        num_tasks: Number of tasks.
        task_names: A name in plain words for each.
        hashes: SHA-256 digests of data, permutations and class order; none of Avalanche's own benchmarks.
    """

    name: str
    title: str
    scenario: str
    input_shape: tuple[int, ...]
    num_classes: int
    classes_per_task: list[list[int]]
    num_tasks: int
    task_names: list[str]
    hashes: dict[str, str] = field(default_factory=dict)


def load(
    recipe: str | Path | BenchmarkRecipe,
    data_root: str | Path | None = None,
    seed: int | None = None,
    download: bool | None = None,
) -> Any:
    """Loads a task stream.

    Args:
        recipe: A name of the catalogue, the path of a YAML file, or a recipe.
        data_root: Folder that is searched for data before `$CLBINN_DATA` and the cache.
        seed: Replaces the recipe's seed of permutations and class orders; from 0 to 2³² - 1.
        download: Whether missing data may be downloaded; None leaves it to the recipe.

    Returns:
        An Avalanche benchmark with `train_stream`, `test_stream` and `info`, a `StreamInfo`. Task labels are 0, except
        in the task scenario, where they count the tasks from 0.

    Raises:
        RecipeError: The recipe can't be found or used.
        DataError: Data are missing, damaged or don't fit.
    """
    if not isinstance(recipe, BenchmarkRecipe):
        from ..recipes import load_benchmark

        recipe = load_benchmark(recipe)
    if seed is not None and not 0 <= seed < 2**32:
        raise RecipeError(f"{recipe.name}: the seed must be from 0 to 2**32 - 1, not {seed}.")
    if isinstance(recipe.tasks, AvalancheTasks):
        benchmark, described = load_avalanche(recipe.tasks, data_root, seed, download)
        benchmark.info = StreamInfo(recipe.name, recipe.title, recipe.scenario, **described)
        numbers = {label for experience in benchmark.train_stream for label in experience.task_labels}
        if recipe.scenario == "task" and len(numbers) < benchmark.info.num_tasks:
            raise RecipeError(
                f"{recipe.name}: in the scenario 'task' each task has its number, but {recipe.tasks.benchmark} "
                f"gives them {sorted(numbers)}: set `options: {{return_task_id: true}}`, or choose another scenario."
            )
        return benchmark

    @functools.cache
    def source(key: str) -> Source:
        return load_source(SourceSpec.model_validate_json(key), data_root, download)

    made = make_tasks(recipe, lambda spec: source(spec.model_copy(update={"normalise": None}).model_dump_json()), seed)
    benchmark = _benchmark(made.tasks, recipe.scenario == "task")
    benchmark.info = StreamInfo(
        recipe.name,
        recipe.title,
        recipe.scenario,
        input_shape=made.tasks[0].train.shape,
        num_classes=1 + max(max(task.classes) for task in made.tasks),
        classes_per_task=[task.classes for task in made.tasks],
        num_tasks=len(made.tasks),
        task_names=[task.name for task in made.tasks],
        hashes=made.hashes,
    )
    return benchmark


def _benchmark(tasks: list[Task], numbered: bool) -> Any:
    attributes: dict[int, Any] = {}

    def wrap(data: TensorTask, label: int) -> Any:
        # Labels become a Python list and are scanned for their classes: once for all tasks that share them.
        key = id(data.targets)
        if key not in attributes:
            attributes[key] = DataAttribute(data.targets.tolist(), "targets")
        labels = TaskLabels(ConstantSequence(label, len(data)))
        return TaskAwareSupervisedClassificationDataset([data], data_attributes=[attributes[key], labels])

    streams = {
        "train": [wrap(task.train, i if numbered else 0) for i, task in enumerate(tasks)],
        "test": [wrap(task.test, i if numbered else 0) for i, task in enumerate(tasks)],
    }
    benchmark = with_classes_timeline(with_task_labels(benchmark_from_datasets(**streams)))
    for stream in benchmark.streams.values():
        for experience in stream:
            # Avalanche makes sets; its multi-head models index tensors with these and need lists.
            for name in ("classes_in_this_experience", "previous_classes", "classes_seen_so_far", "future_classes"):
                setattr(experience, name, sorted(getattr(experience, name)))
    return benchmark
