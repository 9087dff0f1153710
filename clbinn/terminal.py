"""Accuracy matrices as text, read from run folders."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from clbinn.report.runs import Matrix, read_matrix

__all__ = ["matrices", "matrix_text"]

MOST = 12  # rows and columns that are shown whole; of more, the first and last


def matrices(runs: Iterable[Path]) -> str:
    """The accuracy matrix of each strategy, in percent, mean over its seeds; a strategy is the parent of its runs."""
    groups: dict[str, list[Matrix]] = {}
    damaged: list[str] = []
    for run in runs:
        try:
            groups.setdefault(run.parent.name, []).append(_whole(run / "accuracy_matrix.csv"))
        except (OSError, ValueError) as error:
            damaged.append(f"\n{run}: accuracy_matrix.csv can't be read ({getattr(error, 'strerror', None) or error})")
    if damaged:
        damaged.append("Remove summary.json there, and the same command writes both again.")
    return "\n".join([*(_group_text(name, found) for name, found in groups.items() if found), *damaged])


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
    seeds = "1 seed" if len(found) == 1 else f"mean of {len(found)} seeds"
    return f"\n{name}: accuracy in %, {seeds}\n{matrix_text(np.mean(found, axis=0).tolist())}"


def _whole(path: Path) -> Matrix:
    matrix = read_matrix(path)
    if np.isnan(matrix).any():
        raise ValueError("rows are missing")
    return matrix


def _shown(count: int) -> list[int | None]:
    if count <= MOST + 1:
        return list(range(count))
    return [*range(MOST // 2), None, *range(count - MOST // 2, count)]


def _label(index: int | None, offset: int) -> str:
    return "…" if index is None else str(index + offset)
