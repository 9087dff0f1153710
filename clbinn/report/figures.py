"""Figures as PNG and SVG: no pyplot and no global state, colours that the colour-blind can tell apart (Okabe–Ito)."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from clbinn.report.groups import Group, Stream
from clbinn.report.runs import Matrix
from clbinn.report.tables import sample_indices

__all__ = ["accuracy_matrix", "average_accuracy", "matrices", "memory", "styles", "tasks_over_time"]

INK, SOFT, GRID = "#1f2328", "#6a737d", "#e4e7eb"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#A6761D")  # last: for yellow
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
MARKERS = "osD^vP"
COLOURS = "Blues"
TEXT_UP_TO = 12  # tasks for which a heat map's cells carry their number
PANELS = 12  # tasks shown in the small multiples
DPI = 160

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
}


@contextmanager
def _quiet_style() -> Iterator[None]:
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # names of tasks may be in any script
        yield


def styles(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Label → colour, dash and marker, the same in all figures; the reference strategy is always the first blue."""
    labels = sorted((g.label for g in groups), key=lambda label: (not label.startswith("bayesbinn"), label))
    size = len(PALETTE)
    return {
        label: {
            "color": PALETTE[i % size],
            "linestyle": DASHES[i // size % len(DASHES)],
            "marker": MARKERS[(i + i // size) % len(MARKERS)],
        }
        for i, label in enumerate(labels)
    }


def _save(figure: Figure, path: Path) -> None:
    """Write `path` (.png) and the .svg beside it, the same bytes for the same figure."""
    salt = {"svg.hashsalt": path.stem}
    with matplotlib.rc_context(salt):
        figure.savefig(path.with_suffix(".png"), dpi=DPI, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), dpi=DPI, metadata={"Date": None, "Creator": None})


def accuracy_matrix(matrix: Matrix, path: Path, title: str = "") -> None:
    """Heat map of one run's accuracy matrix.

    Args:
        matrix: `(T+1, T)`, fractions, row 0 the untrained network, NaN where nothing was measured.
        path: The PNG file; the SVG goes beside it.
        title: Stands above the figure.
    """
    with _quiet_style():
        side = 5.2 if matrix.shape[1] > TEXT_UP_TO else max(3.0, 0.62 * matrix.shape[1] + 1.2)
        figure = Figure(figsize=(side + 0.9, side), layout="constrained")
        axes = figure.add_subplot()
        image = _heat(axes, matrix, 0.0)
        axes.set_title(title, parse_math=False)
        axes.set_ylabel("after training task")
        axes.set_xlabel("accuracy on task")
        _colour_bar(figure, image, axes)
        _save(figure, path)


def _heat(axes: Axes, matrix: Matrix, low: float) -> AxesImage:
    tasks = matrix.shape[1]
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    image = axes.imshow(matrix, cmap=COLOURS, vmin=low, vmax=1.0, aspect=tasks / (tasks + 1))
    shown = sample_indices(tasks, TEXT_UP_TO if tasks <= TEXT_UP_TO else 6)
    axes.set_xticks(shown, [str(j + 1) for j in shown])
    axes.set_yticks([0, *(j + 1 for j in shown)], ["0", *(str(j + 1) for j in shown)])
    axes.tick_params(length=0, labelsize=8)
    if tasks <= TEXT_UP_TO:
        for (i, j), x in np.ndenumerate(matrix):
            if math.isfinite(x):
                dark = (x - low) / (1 - low) > 0.6
                colour = "white" if dark else (INK if j < i else SOFT)
                axes.text(j, i, f"{100 * x:.0f}", ha="center", va="center", color=colour, fontsize=7.5)
    # the stairs between tasks that were learned (below) and tasks to come (above)
    steps = np.repeat(np.arange(tasks + 1), 2)[1:-1] - 0.5
    edge = np.repeat(np.arange(tasks), 2) + 0.5
    axes.plot(steps, edge, color=INK, linewidth=0.9 if tasks <= 50 else 0.6)
    axes.set_xlim(-0.5, tasks - 0.5)
    axes.set_ylim(tasks + 0.5, -0.5)
    return image


def _colour_bar(figure: Figure, image: AxesImage, axes: Any) -> None:
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, pad=0.02, format=lambda x, _: f"{100 * x:.0f} %")
    bar.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs take it for a Spine call
    bar.ax.tick_params(length=0, labelsize=8)


def average_accuracy(stream: Stream, path: Path) -> bool:
    """Average accuracy over the tasks seen after each task, all strategies; bands are ± one standard deviation.

    Returns:
        Whether there was something to draw.
    """
    groups = [group for group in stream.compared if group.curves is not None]
    if not groups:
        return False
    look = styles(stream.groups)
    with _quiet_style():
        figure = Figure(figsize=(8.6, max(3.9, 0.24 * len(groups) + 1)), layout="constrained")
        axes = figure.add_subplot()
        ends: dict[str, float] = {}
        for group in groups:
            assert group.curves is not None
            mean = group.curves.mean(axis=0)
            _line(axes, mean, look[group.label], spread=_std(group.curves))
            ends[group.label] = float(mean[-1])
        _task_axis(axes, stream.num_tasks)
        axes.set_xlabel("tasks learned")
        axes.set_title("Average accuracy over the tasks seen, %")
        _label_ends(axes, ends, look, stream.num_tasks)
        _save(figure, path)
    return True


def _std(values: Matrix) -> Matrix | None:
    return np.asarray(values.std(axis=0, ddof=1)) if len(values) > 1 else None


def _line(axes: Axes, mean: Matrix, look: Mapping[str, Any], spread: Matrix | None = None, start: int = 1) -> None:
    x = np.arange(start, start + len(mean))
    few = len(mean) <= 20
    axes.plot(x, 100 * mean, **{**look, "marker": look["marker"] if few else ""}, clip_on=False, zorder=3)
    if spread is not None:
        low, high = 100 * (mean - spread), 100 * (mean + spread)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _task_axis(axes: Axes, tasks: int) -> None:
    shown = [j + 1 for j in sample_indices(tasks, 12 if tasks <= 12 else 6)]
    axes.set_xticks(shown, [str(j) for j in shown])
    axes.spines["left"].set_visible(False)
    margin = 0.03 * max(tasks - 1, 1)
    axes.set_xlim(1 - margin, tasks + margin)


def _label_ends(axes: Axes, ends: Mapping[str, float], look: Mapping[str, Mapping[str, Any]], x: int) -> None:
    """Name each line at its end, pushed apart where they would overlap, instead of a legend to look up."""
    labels = sorted(ends, key=lambda label: ends[label])
    low, high = axes.get_ylim()
    assert axes.figure is not None
    height = axes.figure.get_size_inches()[1] * 0.78
    places = spread_out([100 * ends[label] for label in labels], 0.185 / height * (high - low), low, high)
    for label, y in zip(labels, places, strict=True):
        axes.annotate(
            f"{label}  {100 * ends[label]:.1f}",
            xy=(x, 100 * ends[label]),
            xytext=(1.035, (y - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            color=look[label]["color"],
            fontsize=8.5,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": look[label]["color"], "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4},
        )
    axes.set_ylim(low, high)


def spread_out(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels at rising `values`, at least `gap` apart, near their values and inside [low, high] if they fit."""
    places = list(values)
    for _ in range(200):
        for i in range(1, len(places)):
            overlap = gap - (places[i] - places[i - 1])
            if overlap > 0:
                places[i - 1] -= overlap / 2
                places[i] += overlap / 2
        if places and gap * (len(places) - 1) <= high - low:
            shift = max(low - places[0], 0.0)
            places[0] += shift
            places[-1] -= max(places[-1] - high, 0.0)
    for i in range(1, len(places)):  # what the even push has left, upwards
        places[i] = max(places[i], places[i - 1] + gap)
    return places


def tasks_over_time(stream: Stream, path: Path) -> bool:
    """Accuracy of each task from the moment it was learned, a panel a task; of many tasks, some spread evenly.

    Returns:
        Whether there was something to draw.
    """
    groups = [group for group in stream.compared if group.mean_matrix is not None]
    if not groups or stream.num_tasks < 2:
        return False
    look = styles(stream.groups)
    shown = sample_indices(stream.num_tasks, PANELS)
    columns = min(len(shown), 5 if len(shown) <= 10 else 4)
    rows = -(-len(shown) // columns)
    with _quiet_style():
        figure = Figure(figsize=(8.6, 1.75 * rows + 0.35 * (1 + len(groups) // 6)), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes, j in zip(panels, shown, strict=False):
            for group in groups:
                assert group.mean_matrix is not None
                thin = {**look[group.label], "linewidth": 1.2, "markersize": 2.8}
                _line(axes, group.mean_matrix[j + 1 :, j], thin, start=j + 1)
            axes.set_title(f"Task {j + 1}")
            _task_axis(axes, stream.num_tasks)
            axes.tick_params(labelsize=7.5)
            few = sample_indices(stream.num_tasks, 5 if stream.num_tasks <= 12 else 3)
            axes.set_xticks([k + 1 for k in few], [str(k + 1) for k in few])
        handles = panels[0].get_lines()
        labels = [group.label for group in groups]
        legend = figure.legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
        figure.supxlabel("tasks learned", fontsize=9)
        figure.supylabel("accuracy, %", fontsize=9)
        _save(figure, path)
    return True


def matrices(stream: Stream, path: Path) -> bool:
    """Mean accuracy matrices of all strategies side by side, on one scale.

    Returns:
        Whether there was something to draw.
    """
    groups = [group for group in stream.compared if group.mean_matrix is not None]
    if not groups:
        return False
    columns = min(len(groups), 4 if stream.num_tasks != 1 else 6)
    rows = -(-len(groups) // columns)
    width = 8.6 / max(columns, 2)
    low = _low([group.mean_matrix for group in groups if group.mean_matrix is not None])
    with _quiet_style():
        figure = Figure(figsize=(min(8.6, columns * width + 1.2), rows * (width + 0.2)), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(groups) :]:
            axes.set_visible(False)
        for k, (axes, group) in enumerate(zip(panels, groups, strict=False)):
            assert group.mean_matrix is not None
            image = _heat(axes, group.mean_matrix, low)
            axes.set_title(group.label, parse_math=False)
            axes.set_xlabel("accuracy on task" if k >= len(groups) - columns else "", fontsize=8)
            axes.set_ylabel("after task" if k % columns == 0 else "", fontsize=8)
        _colour_bar(figure, image, list(panels))
        _save(figure, path)
    return True


def _low(found: Sequence[Matrix]) -> float:
    """Foot of the colour scale: a tenth at or below the worst cell of a task that was learned, so that what differs shows."""
    worst = min((float(np.nanmin(m[np.tril(np.ones(m.shape, bool), -1)], initial=1.0)) for m in found), default=0.0)
    return max(0.0, math.floor(10 * min(worst, 0.9)) / 10)


def memory(stream: Stream, path: Path) -> bool:
    """Average accuracy against bytes of memory, a point a strategy; bars are ± one standard deviation.

    Returns:
        Whether at least two strategies have both numbers.
    """
    found = [(g, g.stat("memory_bytes"), g.stat("average_accuracy")) for g in stream.compared]
    found = [(g, size, acc) for g, size, acc in found if size.mean > 0 and math.isfinite(acc.mean)]
    if len(found) < 2:
        return False
    look = styles(stream.groups)
    with _quiet_style():
        figure = Figure(figsize=(8.6, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for group, size, acc in found:
            error = 100 * acc.std if math.isfinite(acc.std) else None
            mark = {"color": look[group.label]["color"], "marker": look[group.label]["marker"]}
            axes.errorbar(size.mean, 100 * acc.mean, yerr=error, **mark, markersize=6, elinewidth=1, linestyle="")
        axes.set_xscale("log")
        axes.margins(x=0.16, y=0.12)
        _label_points(axes, [(g.label, s.mean, 100 * a.mean, look[g.label]["color"]) for g, s, a in found])
        axes.spines["left"].set_visible(False)
        low, high = axes.get_xlim()
        ticks = [m * 10.0**e for e in range(-1, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        axes.set_xticks(ticks, [_bytes(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("memory: weights, posterior, stored examples and statistics")
        axes.set_title("Average accuracy after the last task, %")
        _save(figure, path)
    return True


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Label points to the right; labels of one column of points are pushed apart."""
    low, high = axes.get_ylim()
    left, right = (math.log10(x) for x in axes.get_xlim())
    columns: dict[int, list[tuple[str, float, float, str]]] = {}
    for point in sorted(points, key=lambda p: p[2]):
        columns.setdefault(round(6 * (math.log10(point[1]) - left) / (right - left)), []).append(point)
    for column in columns.values():
        places = spread_out([p[2] for p in column], 0.06 * (high - low), low, high)
        for (label, x, y, colour), place in zip(column, places, strict=True):
            style = {"color": colour, "fontsize": 8.5, "va": "center", "parse_math": False}
            offset = (9, 72 * 3.0 * (place - y) / (high - low))
            axes.annotate(label, (x, y), xytext=offset, textcoords="offset points", **style)
    axes.set_ylim(low, high)


def _bytes(x: float) -> str:
    for unit in ("B", "kB", "MB"):
        if x < 1000:
            return f"{x:g} {unit}"
        x /= 1000
    return f"{x:g} GB"
