"""Streams that Avalanche defines itself: any of its classic benchmarks, by name."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, RecipeError
from ..recipe_faults import one_of
from ..schema import AvalancheTasks
from ..targets import check_options
from .data import how_to_get, present, search_roots

__all__ = ["load_avalanche"]

# Whose files a benchmark needs, by what its name contains; the first that fits.
_FILES = {
    "FMNIST": "fashion_mnist",
    "MNIST": "mnist",
    "CIFAR100": "cifar100",
    "CIFAR10": "cifar10",
}


def load_avalanche(
    spec: AvalancheTasks, data_root: str | Path | None, seed: int | None, download: bool | None
) -> tuple[Any, dict[str, Any]]:
    """A classic benchmark of Avalanche, and what `StreamInfo` says of it.

    Args:
        spec: Its name, e.g. `PermutedMNIST`, and its arguments. `dataset_root` is filled in where it has one.
        data_root: Folder that is searched first for MNIST, Fashion-MNIST and CIFAR.
        seed: Replaces the argument `seed` where it has one; where nobody gives it, not even Avalanche, it is 0.
        download: Whether Avalanche may download; None is no.

    Raises:
        RecipeError: There is no such benchmark, it doesn't take these arguments, or it has not a test for each task.
        DataError: Its data are missing.
    """
    from avalanche.benchmarks import classic

    names = [name for name, value in vars(classic).items() if inspect.isfunction(value) and name[0].isupper()]
    if spec.benchmark not in names:
        raise RecipeError(f"Avalanche has no benchmark {spec.benchmark!r}{one_of(spec.benchmark, sorted(names))}")
    make = getattr(classic, spec.benchmark)
    parameters = inspect.signature(make).parameters
    options = dict(spec.options)
    check_options(make, options, "tasks.options")
    if "seed" in parameters and (seed is not None or options.get("seed", parameters["seed"].default) is None):
        options["seed"] = seed or 0  # without one Avalanche draws another stream each time
    for parameter in parameters:
        if parameter.startswith("dataset_root"):
            name = parameter.removeprefix("dataset_root").strip("_") or _files_of(spec.benchmark)
            given = options.get(parameter)
            roots = search_roots(data_root) if given is None else [Path(given)]
            options[parameter] = _root(spec.benchmark, name, roots, given is not None, bool(download))
    try:
        benchmark = make(**options)
    except (TypeError, ValueError, AssertionError, RuntimeError, OSError) as error:
        raise DataError(f"Avalanche's {spec.benchmark}({options}) failed: {error!r}") from error
    trained, tested = len(benchmark.train_stream), len(benchmark.test_stream)
    if trained != tested:
        raise RecipeError(
            f"{spec.benchmark} has {trained} experiences to learn and {tested} to test: a matrix takes one each"
        )
    return benchmark, _describe(benchmark)


def _files_of(benchmark: str) -> str | None:
    return next((files for part, files in _FILES.items() if part in benchmark), None)


def _root(benchmark: str, name: str | None, roots: Sequence[Path], given: bool, download: bool) -> Path:
    """The folder to read from: of a known data set the first that has it, else the first."""
    if download or (name is None and given):
        return next((root for root in roots if name is not None and present(name, root)), roots[0])
    if name is None:
        raise DataError(
            f"Avalanche fetches what {benchmark} needs by itself: allow it (--download), or say where the data are "
            "(options: {dataset_root: …})."
        )
    for root in roots:
        if present(name, root):
            return root
    raise DataError(f"{name}, which {benchmark} needs, was not found.\n{how_to_get(name, roots, 'give --download')}")


def _describe(benchmark: Any) -> dict[str, Any]:
    experiences = list(benchmark.train_stream)
    classes = [sorted(int(c) for c in experience.classes_in_this_experience) for experience in experiences]
    return {
        "input_shape": tuple(experiences[0].dataset[0][0].shape),
        "num_classes": 1 + max(max(labels) for labels in classes),
        "classes_per_task": classes,
        "num_tasks": len(experiences),
        "task_names": [f"experience {i + 1}" for i in range(len(experiences))],
    }
