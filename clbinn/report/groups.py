"""Runs gathered over seeds: means, spreads, and paired differences to a reference strategy."""

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from clbinn.recipe_settings import settings
from clbinn.report.runs import Matrix, Run

__all__ = ["REFERENCE", "Difference", "Group", "Stat", "Stream", "curve", "paired_difference", "stat", "streams"]

REFERENCE = "bayesbinn"
_LONGEST = 40  # letters of a label that tell the settings


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (n − 1 in the denominator; NaN for n = 1) of n finite numbers."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of the differences over n common seeds, with its 95 % interval (infinite for n = 1)."""

    mean: float
    low: float
    high: float
    n: int


def stat(values: Sequence[float]) -> Stat:
    """Mean and sample standard deviation of the finite ones among `values`."""
    finite = np.array([v for v in values if math.isfinite(v)])
    mean = float(finite.mean()) if finite.size else math.nan
    std = float(finite.std(ddof=1)) if finite.size > 1 else math.nan
    return Stat(mean, std, finite.size)


def paired_difference(ours: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Mean of ours − reference over the seeds that both have, with the 95 % interval of Student's t.

    d ± t(0.975, n − 1) · s_d / √n. Pairing takes out what a seed does to both: its permutations, its data order.

    Args:
        ours: Seed → number.
        reference: Seed → number.

    Returns:
        The difference, or None when no seed is common.
    """
    seeds = [s for s in ours if s in reference and math.isfinite(ours[s]) and math.isfinite(reference[s])]
    if not seeds:
        return None
    d = stat([ours[s] - reference[s] for s in seeds])
    half = float(stdtrit(d.n - 1, 0.975)) * d.std / math.sqrt(d.n) if d.n > 1 else math.inf
    return Difference(d.mean, d.mean - half, d.mean + half, d.n)


def curve(matrix: Matrix) -> Matrix:
    """Average accuracy over the tasks seen, after each task: A_i = (1/i) Σ_{j≤i} R[i, j], `(T,)`."""
    tasks = matrix.shape[1]
    seen = np.tril(np.ones((tasks, tasks)))
    return np.asarray(np.where(seen > 0, matrix[1:], 0.0).sum(axis=1) / seen.sum(axis=1))


@dataclass(frozen=True)
class Group:
    """One strategy with one set of settings on one stream: its runs over seeds."""

    label: str
    runs: tuple[Run, ...]

    @property
    def strategy(self) -> str:
        """The strategy's name, without the hash that `label` may carry."""
        return self.runs[0].strategy

    @property
    def hash(self) -> str:
        """Hash of the resolved recipe, 8 hex digits."""
        return self.runs[0].hash

    @cached_property
    def finished(self) -> tuple[Run, ...]:
        """The runs that count: of a seed that was run or copied twice the first."""
        by_seed: dict[int, Run] = {}
        for run in self.runs:
            if run.status == "finished":
                by_seed.setdefault(run.seed, run)
        return tuple(by_seed.values())

    def stat(self, key: str) -> Stat:
        """Mean and spread over the finished runs of a number of summary.json."""
        return stat([run.number(key) for run in self.finished])

    def by_seed(self, key: str) -> dict[int, float]:
        """Seed → a number of summary.json, for the finished runs."""
        return {run.seed: run.number(key) for run in self.finished}

    def setting(self, key: str) -> Any:
        """A setting of the first run that names it (all runs of a group share a recipe), or None."""
        return next((v for run in self.finished or self.runs if (v := run.setting(key)) is not None), None)

    @cached_property
    def matrices(self) -> Matrix | None:
        """Accuracy matrices of the finished runs, `(n, T+1, T)`, or None."""
        found = [run.matrix for run in self.finished if run.matrix is not None]
        found = [m for m in found if m.shape == found[0].shape]
        return np.stack(found) if found else None

    @cached_property
    def mean_matrix(self) -> Matrix | None:
        """Mean accuracy matrix over seeds, `(T+1, T)`, or None."""
        if self.matrices is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a cell that no run has measured stays NaN
            return np.asarray(np.nanmean(self.matrices, axis=0))

    @cached_property
    def curves(self) -> Matrix | None:
        """Average accuracy after each task and run, `(n, T)`, or None."""
        return None if self.matrices is None else np.stack([curve(m) for m in self.matrices])


@dataclass(frozen=True)
class Stream:
    """One task stream and what was run on it; groups by falling average accuracy."""

    benchmark: str
    title: str
    groups: tuple[Group, ...]

    @cached_property
    def reference(self) -> Group | None:
        """The group that differences are taken to: `bayesbinn`, of several the one with the most finished seeds."""
        candidates = [group for group in self.groups if group.strategy == REFERENCE and group.finished]
        return max(candidates, key=lambda group: len(group.finished), default=None)

    @property
    def compared(self) -> tuple[Group, ...]:
        """The groups with at least one finished run."""
        return tuple(group for group in self.groups if group.finished)

    @property
    def runs(self) -> list[Run]:
        """All runs, finished or not."""
        return [run for group in self.groups for run in group.runs]

    @property
    def num_tasks(self) -> int:
        """Number of tasks, 0 when no run says so yet."""
        for run in self.runs:
            if run.matrix is not None:
                return int(run.matrix.shape[1])
        told = [run.number("num_tasks") for run in self.runs]
        return int(next((number for number in told if number > 0), 0))

    @property
    def seeds(self) -> list[int]:
        """All seeds of finished runs."""
        return sorted({run.seed for group in self.groups for run in group.finished})

    def difference(self, group: Group, key: str = "average_accuracy") -> Difference | None:
        """Paired difference of `group` to the reference; None for the reference itself, or without common seeds."""
        if self.reference is None or group is self.reference:
            return None
        return paired_difference(group.by_seed(key), self.reference.by_seed(key))


def streams(runs: Sequence[Run]) -> list[Stream]:
    """Gather runs into streams, one for each distinct benchmark recipe, in the order of their names."""
    by_stream: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_stream[run.benchmark, run.stream].append(run)
    return [_stream(benchmark, members) for (benchmark, _), members in sorted(by_stream.items())]


def _stream(benchmark: str, runs: Sequence[Run]) -> Stream:
    by_recipe: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        by_recipe[run.strategy, run.hash].append(run)
    groups = [Group(_label(runs[0], by_recipe), tuple(runs)) for runs in by_recipe.values()]
    groups.sort(key=lambda group: (-_or(group.stat("average_accuracy").mean, -math.inf), group.label))
    return Stream(benchmark, _title(runs, benchmark), tuple(groups))


def _label(run: Run, by_recipe: Mapping[tuple[str, str], Sequence[Run]]) -> str:
    """The strategy's name; where it ran with several settings, with the one or two that differ, else with the hash."""
    others = [_settings(members[0]) for (strategy, _), members in by_recipe.items() if strategy == run.strategy]
    if len(others) == 1:
        return run.strategy
    ours = _settings(run)
    differ = [key for key in ours if any(other.get(key) != ours[key] for other in others)]
    text = ", ".join(f"{key.rpartition('.')[2]} {ours[key]}" for key in differ)
    same = [all(other.get(key) == ours[key] for key in differ) for other in others]
    telling = 1 <= len(differ) <= 2 and sum(same) == 1 and len(text) <= _LONGEST
    return f"{run.strategy} · {text if telling else run.hash}"


def _settings(run: Run) -> dict[str, str]:
    strategy = run.recipe.get("strategy")
    found = settings(strategy if isinstance(strategy, Mapping) else {})
    return {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in found.items()}


def _or(value: float, default: float) -> float:
    return value if math.isfinite(value) else default


def _title(runs: Sequence[Run], benchmark: str) -> str:
    for run in runs:
        recipe = run.recipe.get("benchmark")
        if isinstance(recipe, Mapping) and isinstance(recipe.get("title"), str) and recipe["title"]:
            return str(recipe["title"])
    return benchmark
