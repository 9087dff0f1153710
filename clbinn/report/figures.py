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
from matplotlib.layout_engine import ConstrainedLayoutEngine

from clbinn.report.groups import Group, Stream
from clbinn.report.places import byte_ticks, bytes_text, folded, legend_columns, round_tasks, spread_out
from clbinn.report.runs import Matrix
from clbinn.report.tables import sample_indices

__all__ = ["accuracy_matrix", "average_accuracy", "matrices", "memory", "save", "style", "styles", "tasks_over_time"]

INK, SOFT, GRID = "#1f2328", "#6a737d", "#e4e7eb"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#A6761D")  # last: for yellow
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
MARKERS = "osD^vP"
COLOURS = "Blues"
TEXT_UP_TO = 12  # tasks for which a heat map's cells carry their number
PANELS = 12  # tasks shown in the small multiples
DPI = 160
WIDTH = 11.6  # inches, all figures of the page

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
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
def style() -> Iterator[None]:
    """The look of all figures, for what is drawn inside."""
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


def save(figure: Figure, path: Path) -> None:
    """Write `path` (.png) and the .svg beside it, the same bytes for the same figure."""
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path.with_suffix(".png"), dpi=DPI, metadata={"Software": None})
        figure.set_layout_engine("none")  # keep the places found for the PNG: finding them is what takes time
        figure.savefig(path.with_suffix(".svg"), dpi=DPI, metadata={"Date": None, "Creator": None})


def accuracy_matrix(matrix: Matrix, path: Path, title: str = "") -> None:
    """Heat map of one run's accuracy matrix.

    Args:
        matrix: `(T+1, T)`, fractions, row 0 the untrained network, NaN where nothing was measured.
        path: The PNG file; the SVG goes beside it.
        title: Stands above the figure.
    """
    with style():
        side = 5.2 if matrix.shape[1] > TEXT_UP_TO else max(3.0, 0.62 * matrix.shape[1] + 1.2)
        figure = Figure(figsize=(side + 0.9, side), layout="constrained")
        axes = figure.add_subplot()
        image = _heat(axes, matrix, 0.0)
        axes.set_title(folded(title, figure.get_figwidth() - 1), parse_math=False)
        axes.set_ylabel("after training task")
        axes.set_xlabel("accuracy on task")
        _colour_bar(figure, image, axes)
        save(figure, path)


def _heat(axes: Axes, matrix: Matrix, low: float) -> AxesImage:
    tasks = matrix.shape[1]
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    image = axes.imshow(matrix, cmap=COLOURS, vmin=low, vmax=1.0, aspect="auto")
    ticks = round_tasks(tasks, TEXT_UP_TO)
    axes.set_xticks([t - 1 for t in ticks], [str(t) for t in ticks])
    rows = [0, *(ticks if tasks <= TEXT_UP_TO else ticks[1:])]
    axes.set_yticks(rows, [str(t) for t in rows])
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
    shape: dict[str, Any] = {
        "shrink": 0.8,
        "aspect": 30,
        "pad": 0.02,
        "extend": "min" if image.norm.vmin else "neither",
    }
    bar = figure.colorbar(image, ax=axes, format=lambda x, _: f"{100 * x:.0f} %", **shape)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)


def average_accuracy(stream: Stream, path: Path) -> bool:
    """Average accuracy over the tasks seen after each task, all strategies; bands are ± one standard deviation.

    Returns:
        Whether there was something to draw.
    """
    found = [(group, curves) for group in stream.compared if (curves := group.curves) is not None]
    if not found:
        return False
    look = styles(stream.groups)
    with style():
        figure = Figure(figsize=(WIDTH, max(4.4, 0.24 * len(found) + 1)), layout="constrained")
        axes = figure.add_subplot()
        ends: dict[str, float] = {}
        for group, curves in found:
            mean = curves.mean(axis=0)
            _line(axes, mean, look[group.label], spread=_std(curves))
            ends[group.label] = float(mean[-1])
        _task_axis(axes, stream.num_tasks)
        axes.set_xlabel("tasks learned")
        axes.set_title("Average accuracy over the tasks seen, %")
        _label_ends(axes, ends, look, stream.num_tasks, height=figure.get_figheight())
        save(figure, path)
    return True


def _std(values: Matrix) -> Matrix | None:
    return np.asarray(values.std(axis=0, ddof=1)) if len(values) > 1 else None


def _line(axes: Axes, mean: Matrix, look: Mapping[str, Any], spread: Matrix | None = None, start: int = 1) -> None:
    x = np.arange(start, start + len(mean))
    few = start + len(mean) <= 21  # of all tasks: the panels of a figure are alike
    axes.plot(x, 100 * mean, **{**look, "marker": look["marker"] if few else ""}, clip_on=False, zorder=3)
    if spread is not None:
        low, high = 100 * (mean - spread), 100 * (mean + spread)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _task_axis(axes: Axes, tasks: int, at_most: int = 12) -> None:
    ticks = round_tasks(tasks, at_most)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.spines["left"].set_visible(False)
    margin = 0.03 * max(tasks - 1, 1)
    axes.set_xlim(1 - margin, tasks + margin)


def _label_ends(
    axes: Axes, ends: Mapping[str, float], look: Mapping[str, Mapping[str, Any]], x: int, height: float
) -> None:
    """Name each line at its end, pushed apart where they would overlap, instead of a legend to look up."""
    labels = sorted(ends, key=lambda label: ends[label])
    low, high = axes.get_ylim()
    gap = 0.185 / (0.78 * height) * (high - low)  # a line of text, in the axis' unit
    places = spread_out([100 * ends[label] for label in labels], gap, low, high)
    for label, y in zip(labels, places, strict=True):
        axes.annotate(
            f"{label}  {100 * ends[label]:.1f}",
            xy=(x, 100 * ends[label]),
            xytext=(1.035, (y - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look[label]["color"],
                "linewidth": 1.0,
                "shrinkA": 2,
                "shrinkB": 5,
                "relpos": (0, 0.5),  # to the label's left end, not under it
            },
        )
    axes.set_ylim(low, high)


def tasks_over_time(stream: Stream, path: Path) -> bool:
    """Accuracy of each task from the moment it was learned, a panel a task; of many tasks, some spread evenly.

    Returns:
        Whether there was something to draw.
    """
    found = [(group, mean) for group in stream.compared if (mean := group.mean_matrix) is not None]
    if not found or stream.num_tasks < 2:
        return False
    look = styles(stream.groups)
    shown = sample_indices(stream.num_tasks, PANELS + 1)[:-1]  # the last task has no time to be forgotten
    columns = min(len(shown), 4)
    rows = -(-len(shown) // columns)
    with style():
        names = [group.label for group, _ in found]
        ncols = legend_columns(names, WIDTH)
        figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.3 * -(-len(names) // ncols)), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for k, (axes, j) in enumerate(zip(panels, shown, strict=False)):
            for group, mean in found:
                thin = {**look[group.label], "linewidth": 1.3, "markersize": 3}
                _line(axes, mean[j + 1 :, j], thin, start=j + 1)
            axes.set_title(f"Task {j + 1}")
            _task_axis(axes, stream.num_tasks, at_most=6)
            axes.tick_params(labelsize=8)
            if k >= len(shown) - columns:
                axes.set_xlabel("tasks learned", fontsize=8.5)
            if k % columns == 0:
                axes.set_ylabel("accuracy, %", fontsize=8.5)
        place: dict[str, Any] = {"loc": "outside upper left", "ncols": ncols, "frameon": False, "fontsize": 8.5}
        legend = figure.legend(panels[0].get_lines(), names, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
        save(figure, path)
    return True


def matrices(stream: Stream, path: Path) -> bool:
    """Mean accuracy matrices of all strategies side by side, on one scale.

    Returns:
        Whether there was something to draw.
    """
    found = [(group, mean) for group in stream.compared if (mean := group.mean_matrix) is not None]
    if not found:
        return False
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    width = (WIDTH - 1.0) / max(columns, 3)
    low = _low([mean for _, mean in found])
    with style():
        apart = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07)  # titles keep off the labels above them
        figure = Figure(figsize=(columns * width + 1.0, rows * (width + 0.3)), layout=apart)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(found) :]:
            axes.set_visible(False)
        for k, (axes, (group, mean)) in enumerate(zip(panels, found, strict=False)):
            image = _heat(axes, mean, low)
            axes.set_title(folded(group.label, width), parse_math=False)
            axes.set_xlabel("accuracy on task" if k >= len(found) - columns else "", fontsize=8)
            axes.set_ylabel("after task" if k % columns == 0 else "", fontsize=8)
        _colour_bar(figure, image, list(panels))
        save(figure, path)
    return True


def _low(found: Sequence[Matrix]) -> float:
    """Foot of the colour scale, a tenth: at or below the worst cell of a learned task, so that differences show."""
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
    with style():
        figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for group, size, acc in found:
            error = 100 * acc.std if math.isfinite(acc.std) else None
            mark = {"color": look[group.label]["color"], "marker": look[group.label]["marker"]}
            axes.errorbar(size.mean, 100 * acc.mean, yerr=error, **mark, markersize=6, elinewidth=1, linestyle="")
        axes.set_xscale("log")
        axes.margins(x=0.16, y=0.12)
        low, high = axes.get_xlim()
        wider = max(1.0, math.sqrt(2 * low / high))  # sizes that hardly differ stand close to each other
        axes.set_xlim(low / wider, high * wider)
        _label_points(axes, [(g.label, s.mean, 100 * a.mean) for g, s, a in found])
        axes.spines["left"].set_visible(False)
        ticks = byte_ticks(*axes.get_xlim())
        axes.set_xticks(ticks, [bytes_text(t) for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("memory: weights, posterior, stored examples and statistics")
        axes.set_title("Average accuracy after the last task, %")
        save(figure, path)
    return True


def _label_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Label points to the right; labels of one column of points are pushed apart."""
    low, high = axes.get_ylim()
    left, right = (math.log10(x) for x in axes.get_xlim())
    columns: dict[int, list[tuple[str, float, float]]] = {}
    for point in sorted(points, key=lambda p: p[2]):
        columns.setdefault(round(6 * (math.log10(point[1]) - left) / (right - left)), []).append(point)
    for column in columns.values():
        places = spread_out([p[2] for p in column], 0.06 * (high - low), low, high)
        for (label, x, y), place in zip(column, places, strict=True):
            offset = (9, 72 * 3.0 * (place - y) / (high - low))
            place_at: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "va": "center"}
            axes.annotate(label, (x, y), fontsize=9, parse_math=False, **place_at)
    axes.set_ylim(low, high)
