"""Accuracy matrices as text, read from run folders."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["matrices", "matrix_text"]

MOST = 12  # rows and columns that are shown whole; of more, the first and last

Matrix = list[list[float]]


def matrices(runs: Iterable[Path]) -> str:
    """The accuracy matrix of each strategy, in percent, mean over its seeds; a strategy is the parent of its runs."""
    groups: dict[Path, list[Matrix]] = {}
    for run in runs:
        groups.setdefault(run.parent, []).append(_read(run / "accuracy_matrix.csv"))
    return "\n".join(_group_text(folder.name, found) for folder, found in groups.items())


def matrix_text(matrix: Sequence[Sequence[float]]) -> str:
    """Rows: after each task (row 0 untrained). Columns: test tasks, then the mean over the tasks seen so far."""
    tasks = len(matrix[0])
    rows, columns = _shown(len(matrix)), _shown(tasks)
    lines = ["  after task " + "".join(f"{_label(column, 1):>7}" for column in columns) + "   mean of seen"]
    for row in rows:
        if row is None:
            lines.append("         …")
            continue
        values = ["      …" if column is None else f"{100 * matrix[row][column]:7.1f}" for column in columns]
        seen = f"{100 * sum(matrix[row][:row]) / row:12.2f}" if row else ""
        lines.append(f"  {row or 'untrained':>10} {''.join(values)}   {seen}".rstrip())
    return "\n".join(lines)


def _group_text(name: str, found: list[Matrix]) -> str:
    rows = min(len(matrix) for matrix in found)
    columns = len(found[0][0])
    mean = [[sum(m[i][j] for m in found) / len(found) for j in range(columns)] for i in range(rows)]
    seeds = "1 seed" if len(found) == 1 else f"mean of {len(found)} seeds"
    return f"\n{name}: accuracy in %, {seeds}\n{matrix_text(mean)}"


def _read(path: Path) -> Matrix:
    with path.open(encoding="utf-8", newline="") as file:
        return [[float(cell) for cell in row[1:]] for row in list(csv.reader(file))[1:]]


def _shown(count: int) -> list[int | None]:
    if count <= MOST + 1:
        return list(range(count))
    return [*range(MOST // 2), None, *range(count - MOST // 2, count)]


def _label(index: int | None, offset: int) -> str:
    return "…" if index is None else str(index + offset)
