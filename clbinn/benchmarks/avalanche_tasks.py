"""Streams that Avalanche defines itself: any of its classic benchmarks, by name."""

import difflib
import inspect
from pathlib import Path
from typing import Any

from ..errors import DataError, RecipeError
from ..schema import AvalancheTasks
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
        near = difflib.get_close_matches(spec.benchmark, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(names))}."
        raise RecipeError(f"Avalanche has no benchmark {spec.benchmark!r}: {hint}")
    make = getattr(classic, spec.benchmark)
    parameters = inspect.signature(make).parameters
    options = dict(spec.options)
    unknown = [name for name in options if name not in parameters]
    if unknown:
        raise RecipeError(f"{spec.benchmark} has no argument {unknown[0]!r}; it has {', '.join(parameters)}.")
    if "seed" in parameters and (seed is not None or options.get("seed", parameters["seed"].default) is None):
        options["seed"] = seed or 0  # without one Avalanche draws another stream each time
    for parameter in parameters:
        if parameter.startswith("dataset_root") and parameter not in options:
            name = parameter.removeprefix("dataset_root").strip("_") or _files_of(spec.benchmark)
            options[parameter] = _root(spec.benchmark, name, data_root, bool(download))
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


def _root(benchmark: str, name: str | None, data_root: str | Path | None, download: bool) -> Path:
    roots = search_roots(data_root)
    if name is None and not download:
        raise DataError(
            f"Avalanche fetches what {benchmark} needs by itself: allow it (--download), or say where the data are "
            "(options: {dataset_root: …})."
        )
    for root in roots:
        if name is not None and present(name, root):
            return root
    if name is not None and not download:
        raise DataError(f"{name}, which {benchmark} needs, was not found.\n{how_to_get(name, data_root)}")
    return roots[0]


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
