"""Run folders as they are on disk, finished or not. Nothing in a folder makes reading fail: faults become a status."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clbinn import yaml_source
from clbinn.errors import RecipeError

__all__ = ["Matrix", "Run", "find_runs", "read_matrix", "read_run"]

Matrix = NDArray[np.float64]
Status = Literal["finished", "incomplete", "failed", "damaged"]

_TAIL = 65_536  # bytes of events.jsonl that are enough to see the last event
_MOST_TASKS = 10_000  # a matrix of as many takes 800 MB
_MARKS = ("recipe.yaml", "events.jsonl", "summary.json")


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: The folder, `<benchmark>/<strategy>-<hash>/seed-<n>`.
        status: `finished` when summary.json can be read; `failed` when the last event says so; `damaged` when a file
            can't be read; else `incomplete`: still running, or cut off.
        note: What is damaged, or how far the run has come.
        matrix: Accuracy matrix `(T+1, T)`, row 0 the untrained network, NaN where nothing was measured; or None.
    """

    path: Path
    benchmark: str
    strategy: str
    hash: str
    seed: int
    status: Status
    note: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    matrix: Matrix | None = None

    @cached_property
    def stream(self) -> str:
        """The benchmark's recipe as canonical text: runs are compared only where it is the same."""
        benchmark = self.recipe.get("benchmark", self.benchmark)
        if isinstance(benchmark, Mapping):
            benchmark = {key: value for key, value in benchmark.items() if key != "title"}
        return json.dumps(benchmark, sort_keys=True, default=str)

    def number(self, key: str) -> float:
        """A number of summary.json; NaN when it is missing, not a number, or infinite."""
        value = self.summary.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return math.nan
        try:
            number = float(value)
        except OverflowError:  # a whole number of hundreds of digits
            return math.nan
        return number if math.isfinite(number) else math.nan

    def setting(self, key: str) -> Any:
        """A setting by its dotted name: of the summary, else of the strategy's recipe, or `benchmark.…`; or None."""
        if key in self.summary:
            return self.summary[key]
        part: Any = self.recipe if key.startswith("benchmark.") else self.recipe.get("strategy", {})
        for word in key.split("."):
            if not isinstance(part, Mapping) or word not in part:
                return None
            part = part[word]
        return part


def find_runs(directory: Path) -> list[Run]:
    """All runs at or below `directory`, by benchmark, strategy, hash and seed."""
    runs = [read_run(path) for path in _run_folders(directory)]
    return sorted(runs, key=lambda run: (run.benchmark, run.strategy, run.hash, run.seed))


def _run_folders(directory: Path, depth: int = 0) -> Iterator[Path]:
    if any((directory / mark).is_file() for mark in _MARKS):
        yield directory
    elif depth < 3:
        for child in sorted(directory.iterdir()):
            if child.is_dir() and not child.is_symlink():
                yield from _run_folders(child, depth + 1)


def read_run(path: Path) -> Run:
    """Read one run folder; what can't be read is named in the run's `note`."""
    path = path.resolve()
    faults: list[str] = []
    recipe_text = _text(path / "recipe.yaml", faults)
    recipe = _mapping(recipe_text, path / "recipe.yaml", faults)
    summary = _mapping(_text(path / "summary.json", faults), path / "summary.json", faults)
    environment = _mapping(_text(path / "environment.json", faults), path / "environment.json", faults)
    matrix = _matrix_of(path, faults)
    own = path.name.removeprefix("seed-")
    if own != path.name and own.isdecimal() and isinstance(summary.get("seed"), int) and summary["seed"] != int(own):
        faults.append(f"summary.json is of seed {summary['seed']}")
    status, note = _status(path, summary, matrix, faults)
    name, _, digest = path.parent.name.rpartition("-")
    return Run(
        path=path,
        benchmark=_word(summary.get("benchmark"), _name_in(recipe, "benchmark"), path.parent.parent.name),
        strategy=_word(summary.get("strategy"), _name_in(recipe, "strategy"), name),
        hash=_word(summary.get("hash"), digest),
        seed=_seed(summary.get("seed", recipe.get("seed")), path.name),
        status=status,
        note=note,
        summary=summary,
        recipe=recipe,
        recipe_text=recipe_text,
        environment=environment,
        matrix=matrix,
    )


def _word(*candidates: Any) -> str:
    return next((c for c in candidates if isinstance(c, str) and c), "unknown")


def _name_in(recipe: Mapping[str, Any], part: str) -> Any:
    value = recipe.get(part)
    return value.get("name") if isinstance(value, Mapping) else value


def _seed(value: Any, folder: str) -> int:
    if isinstance(value, int):
        return value
    digits = folder.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else 0


def _text(path: Path, faults: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path.name}: {error}")
        return ""


def _mapping(text: str, path: Path, faults: list[str]) -> dict[str, Any]:
    if not text:
        return {}
    try:
        # YAML as recipes use it: a stranger's anchors would explode, or bite their own tail
        value = json.loads(text) if path.suffix == ".json" else yaml_source.parse(text, path.name).data
    except (ValueError, RecursionError, RecipeError):
        faults.append(f"{path.name} can't be read")
        return {}
    if not isinstance(value, dict):
        faults.append(f"{path.name} holds no mapping")
        return {}
    return value


def _matrix_of(path: Path, faults: list[str]) -> Matrix | None:
    try:
        return read_matrix(path / "accuracy_matrix.csv")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        faults.append(f"accuracy_matrix.csv: {error}")
        return None


def read_matrix(path: Path) -> Matrix:
    """Read accuracy_matrix.csv: `(T+1, T)`, rows that are missing or cut off are NaN.

    Raises:
        ValueError: The header or a cell isn't what the format says.
    """
    header, _, body = path.read_text(encoding="utf-8").partition("\n")
    tasks = header.count(",")
    if not header.startswith("trained_task,") or not 0 < tasks <= _MOST_TASKS:
        raise ValueError(f"the header isn't trained_task,test_task_1,… for 1 to {_MOST_TASKS:,} tasks")
    matrix = np.full((tasks + 1, tasks), np.nan)
    for line in body.splitlines():
        cells = line.split(",")
        if len(cells) != tasks + 1:  # cut off while it was written
            continue
        row = int(cells[0])
        if not 0 <= row <= tasks:
            raise ValueError(f"row {row} of {tasks} tasks")
        matrix[row] = [float(cell) if cell.strip() else math.nan for cell in cells[1:]]
    return matrix


def _status(path: Path, summary: Mapping[str, Any], matrix: Matrix | None, faults: list[str]) -> tuple[Status, str]:
    if faults:
        return "damaged", "; ".join(faults)
    if summary:
        return "finished", ""
    event = _last_event(path / "events.jsonl")
    if event.get("error") or event.get("status") == "failed":
        return "failed", str(event.get("error", ""))
    where = []
    if isinstance(event.get("task"), int):
        where.append(f"task {event['task']}")
    elif matrix is not None:
        rows = np.flatnonzero(np.isfinite(matrix).all(axis=1))
        where.append(f"{rows[-1] if rows.size else 0} of {matrix.shape[1]} tasks")
    if isinstance(event.get("epoch"), int):
        where.append(f"epoch {event['epoch']}" + (f" of {event['epochs']}" if "epochs" in event else ""))
    if isinstance(event.get("time"), str):
        where.append(f"last sign of life {event['time'][:19]}")
    return "incomplete", ", ".join(where)


def _last_event(path: Path) -> Mapping[str, Any]:
    """The last whole line of events.jsonl, read from its end: the file may be long."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            return event
    return {}
