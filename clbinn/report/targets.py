"""Published numbers (benchmarks/targets.csv) beside ours: reproduced, short by how much, or not run.

Columns of the file; numbers are in the unit of summary.json, so accuracies are fractions:

    id         path of the number, e.g. table10/mnist/bayesbinn_mode/test_accuracy
    benchmark  name of the stream's recipe
    strategy   name of the strategy's recipe
    where      settings that must hold, `key=value` with spaces between: keys of summary.json, of the strategy's
               recipe (options.temperature) or of the stream's (benchmark.tasks.count)
    metric     key of summary.json; `average_accuracy@5` is read from the matrix, after task 5; `test_accuracy` of a
               single task is its average accuracy
    value, std the published mean and its spread (std may be empty)
    tolerance  how far ours may fall short and still count as reproduced
    epochs     epochs of the published protocol (a task); a run with fewer is shown but not judged; may be empty
    evidence   printed | stored | figure | rewrite | secondary: read in the source itself, in a file of results, by eye
               in a figure, measured by an independent plain program, or cited elsewhere
    source     where it stands
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clbinn.errors import UserError
from clbinn.recipe_settings import tells_length
from clbinn.report.groups import Group, Stat, Stream, curve, stat
from clbinn.report.runs import Run

__all__ = ["COLUMNS", "Target", "Verdict", "compare", "load_targets"]

COLUMNS = (
    *("id", "benchmark", "strategy", "where"),
    *("metric", "value", "std", "tolerance", "epochs"),
    *("evidence", "source"),
)
EVIDENCE = ("printed", "stored", "figure", "rewrite", "secondary")
LOWER_IS_BETTER = ("nll", "ece", "brier", "forgetting", "error", "mse")  # of training and of testing

Outcome = Literal["reproduced", "short", "shorter run", "other settings", "not run"]


@dataclass(frozen=True)
class Target:
    """One published number."""

    id: str
    benchmark: str
    strategy: str
    where: tuple[tuple[str, str], ...]
    metric: str
    value: float
    std: float
    tolerance: float
    epochs: int | None
    evidence: str
    source: str

    def matches(self, group: Group) -> bool:
        """Whether the group's runs are of this target's stream, strategy and settings."""
        run = group.runs[0]
        named = run.benchmark == self.benchmark and run.strategy == self.strategy
        return named and all(_same(group.setting(key), value) for key, value in self.where)


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured.

    Attributes:
        gap: Ours − published, turned so that negative is worse; NaN when nothing was measured.
        note: Why the row isn't judged, for `shorter run` and `other settings`.
    """

    target: Target
    outcome: Outcome
    ours: Stat
    gap: float
    note: str = ""

    @property
    def text(self) -> str:
        """The outcome in a few words."""
        if self.outcome == "short":
            scale, unit = (100.0, " points") if is_fraction(self.target.metric) else (1.0, "")
            return f"short by {-self.gap * scale:.2f}{unit}"
        return f"{self.outcome} ({self.note})" if self.note else self.outcome


def other_settings(group: Group) -> list[str]:
    """What the runs say is not as in the recipes that the package ships, but for their length."""
    notes = group.setting("protocol")
    return [str(note) for note in notes if not tells_length(str(note))] if isinstance(notes, list) else []


def is_fraction(metric: str) -> bool:
    """Whether a metric is a fraction that people read as percent."""
    return "accuracy" in metric or metric.endswith(("transfer", "error")) or metric == "forgetting"


def load_targets(path: Path) -> list[Target]:
    """Read a targets file.

    Raises:
        UserError: The file is missing or a row is wrong; the message names all wrong lines.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UserError(f"{path}:1: the columns must be {','.join(COLUMNS)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: targets can't be read: {error}") from None
    targets: list[Target] = []
    faults: list[str] = []
    seen: set[str] = set()
    for line, row in rows:
        try:
            target = _target(row)
            if target.id in seen:
                raise ValueError(f"id {target.id!r} stands twice")
            seen.add(target.id)
            targets.append(target)
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
    if faults:
        raise UserError("\n".join(faults))
    return targets


def _target(row: dict[str, str | None]) -> Target:
    # csv.DictReader fills short rows with None and puts what is too much under the key None
    if None in row or None in row.values():
        raise ValueError(f"{len(COLUMNS)} cells are needed")
    cell = {key: (value or "").strip() for key, value in row.items()}
    for key in ("id", "benchmark", "strategy", "metric", "source"):
        if not cell[key]:
            raise ValueError(f"{key} is empty")
    if cell["evidence"] not in EVIDENCE:
        raise ValueError(f"evidence {cell['evidence']!r} isn't one of {', '.join(EVIDENCE)}")
    metric, at, task = cell["metric"].partition("@")
    if at and (metric != "average_accuracy" or not task.isdecimal() or int(task) < 1):
        raise ValueError(f"metric {cell['metric']!r}: only average_accuracy@TASK, TASK from 1, is read from the matrix")
    where = tuple(_condition(part) for part in cell["where"].split())
    if cell["epochs"] and not cell["epochs"].isdecimal():
        raise ValueError(f"epochs {cell['epochs']!r} isn't a whole number")
    return Target(
        id=cell["id"],
        benchmark=cell["benchmark"],
        strategy=cell["strategy"],
        where=where,
        metric=cell["metric"],
        value=_number("value", cell["value"]),
        std=_number("std", cell["std"]) if cell["std"] else math.nan,
        tolerance=_number("tolerance", cell["tolerance"]),
        epochs=int(cell["epochs"]) if cell["epochs"] else None,
        evidence=cell["evidence"],
        source=cell["source"],
    )


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"where {text!r} isn't key=value")
    return key, value


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (name != "value" and number < 0):
        raise ValueError(f"{name} {text!r} isn't a number that makes sense here")
    return number


def compare(targets: Sequence[Target], streams: Sequence[Stream]) -> list[Verdict]:
    """Judge every target by the group that fits it best: shipped settings, full epochs before fewer, more seeds."""
    groups = [group for stream in streams for group in stream.compared]
    return [_judge(target, [group for group in groups if target.matches(group)]) for target in targets]


def _judge(target: Target, groups: Sequence[Group]) -> Verdict:
    candidates = [(group, ours) for group in groups if (ours := _measured(target, group)).n]
    if not candidates:
        return Verdict(target, "not run", Stat(math.nan, math.nan, 0), math.nan)

    def fit(candidate: tuple[Group, Stat]) -> tuple[bool, float, int, str]:
        group, measured = candidate  # what was measured must not choose
        return not _unlike(target, group), _epochs(group), measured.n, group.hash

    group, ours = max(candidates, key=fit)
    sign = -1.0 if target.metric.removeprefix("train_").removeprefix("test_") in LOWER_IS_BETTER else 1.0
    gap = sign * (ours.mean - target.value)
    unlike = _unlike(target, group)
    if unlike:
        return Verdict(target, "other settings", ours, gap, ", ".join(unlike))
    if not _enough(target, _epochs(group)):
        return Verdict(target, "shorter run", ours, gap, f"{_epochs(group):g} of {target.epochs} epochs")
    # 1e-9: 0.90 - 0.01 must reach 0.89 in binary fractions as well
    return Verdict(target, "reproduced" if gap >= -target.tolerance - 1e-9 else "short", ours, gap)


def _unlike(target: Target, group: Group) -> list[str]:
    """Why a group's runs are not those of the published protocol; a shorter run of it is none of these."""
    named = {key for key, _ in target.where}
    unlike = [note for note in other_settings(group) if note.partition(" ")[0] not in named]
    if target.epochs is not None and _epochs(group) > target.epochs:
        unlike.append(f"{_epochs(group):g} epochs instead of {target.epochs}")
    return unlike


def _measured(target: Target, group: Group) -> Stat:
    metric, at, task = target.metric.partition("@")
    if metric == "test_accuracy" and group.setting("num_tasks") == 1:
        metric = "average_accuracy"
    if not at:
        return group.stat(metric)
    return stat([_after(run, int(task)) for run in group.finished])


def _after(run: Run, task: int) -> float:
    if run.matrix is None or run.matrix.shape[1] < task:
        return math.nan
    return float(curve(run.matrix)[task - 1])


def _epochs(group: Group) -> float:
    epochs = group.setting("epochs")
    epochs = group.setting("train.epochs") if epochs is None else epochs
    return float(epochs) if isinstance(epochs, int | float) else math.nan


def _enough(target: Target, epochs: float) -> bool:
    return target.epochs is None or epochs >= target.epochs


def _same(ours: object, text: str) -> bool:
    """Equality of a setting and its text in the file: numbers as numbers, the rest as words without spaces."""
    if ours is None:
        return False
    try:
        return math.isclose(float(str(ours)), float(text), rel_tol=1e-9)
    except ValueError:
        return str(ours).replace(" ", "").lower() == text.lower()
