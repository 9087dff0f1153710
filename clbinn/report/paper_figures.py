"""Figures of the appendix: accuracies over epochs, decision regions, regression curves, weight probabilities."""

import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clbinn.report import figures
from clbinn.report.drawing import Drawn
from clbinn.report.groups import Group, Stream
from clbinn.report.runs import Run

__all__ = ["draw", "in_order"]

Array = NDArray[np.float64]
ROW = 3.5  # inches, height of a row of panels


def draw(found: Sequence[Stream], base: Path) -> list[Drawn]:
    """Draw what the runs have: predictions on a grid, accuracies over epochs, or histograms of weights.

    Args:
        found: The streams of a table.
        base: Path of the files, without ending.

    Returns:
        The figures, PNG with SVG beside each.
    """
    drawn = []
    for stream in found:
        groups = in_order(stream)
        plans: list[tuple[str, Callable[[Sequence[Group], Path], bool], str, str]] = [
            ("predictions", partial(predictions, inputs=2), "Decision regions", _REGIONS),
            ("predictions", partial(predictions, inputs=1), "Regression curves", _REGRESSION),
            ("curves", curves, "Training and validation accuracy", "By epoch; mean over seeds."),
            ("sweep", sweep, "Accuracy over settings", "Bars are one standard deviation over seeds."),
            ("weights", weights, "Weight probabilities after each task", "Shares by P(w = +1); first seed."),
        ]
        for suffix, plan, title, caption in plans:
            path = base.with_name(f"{base.name}-{stream.benchmark}-{suffix}.png")
            if plan(groups, path):
                drawn.append(Drawn(path, f"{title}: {stream.title}", caption))
    return drawn


_REGIONS = (
    "Probability of class 1, and the boundary at one half; training points of class 0 are round, those of class 1 "
    "square. Inputs standardised. First seed."
)
_REGRESSION = (
    "All training points, and the mean of the sampled networks with a band of two standard deviations; a single "
    "network has none. Test errors are of a second training without the test points. First seed."
)


def predictions(groups: Sequence[Group], path: Path, inputs: int) -> bool:
    """One panel a method: decision regions for two inputs, a curve for one."""
    arrays_of = [(group, _arrays(group.finished[0])) for group in groups]
    found = [(group, arrays) for group, arrays in arrays_of if arrays is not None and arrays["grid"].shape[1] == inputs]
    if not found:
        return False
    labels = _labels([group for group, _ in found])
    filled: ContourSet | None = None
    with figures.style():
        figure = Figure(figsize=(figures.WIDTH, ROW), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (group, arrays) in zip(panels, found, strict=True):
            if inputs == 2:
                filled = _regions(axes, arrays)
            else:
                _regression(axes, arrays)
            axes.set_title(labels[group.label])
        panels[0].set_ylabel("input 2" if inputs == 2 else "output, standardised")
        if filled is not None:
            figure.colorbar(filled, ax=panels, label="probability of class 1", ticks=np.linspace(0, 1, 5), pad=0.02)
        figures.save(figure, path)
    return True


def _regions(axes: Axes, arrays: dict[str, Array]) -> ContourSet:
    side = round(len(arrays["grid"]) ** 0.5)
    x, y, p = (a.reshape(side, side) for a in (*arrays["grid"].T, arrays["outputs"].mean(0)))
    # limits beyond [0, 1] leave out the darkest colours, on which points can't be seen
    filled = axes.contourf(x, y, p, levels=np.linspace(0, 1, 21), cmap="RdBu_r", vmin=-0.3, vmax=1.3)
    axes.contour(x, y, p, levels=[0.5], colors=figures.INK, linewidths=1.0)
    for label, marker in ((0, "o"), (1, "s")):
        points = arrays["train_x"][arrays["train_y"] == label]
        axes.plot(*points.T, marker, color=figures.INK, markersize=3.2, markeredgecolor="white", markeredgewidth=0.5)
    axes.grid(visible=False)
    axes.set_aspect("equal")
    axes.set_xlabel("input 1")
    return filled


def _regression(axes: Axes, arrays: dict[str, Array]) -> None:
    x, outputs = arrays["grid"][:, 0], arrays["outputs"]
    mean, spread = outputs.mean(0), 2 * outputs.std(0)
    axes.plot(arrays["train_x"][:, 0], arrays["train_y"], ".", color=figures.SOFT, markersize=3)
    axes.plot(x, mean, color=figures.PALETTE[0])
    if len(outputs) > 1:
        axes.fill_between(x, mean - spread, mean + spread, color=figures.PALETTE[0], alpha=0.2, linewidth=0)
    axes.set_xlabel("input, standardised")


def curves(groups: Sequence[Group], path: Path) -> bool:
    """Training (dashed) and validation accuracy by epoch, as Figure 6."""
    found = [(group, both) for group in groups if len((both := _by_epoch(group))["train_accuracy"])]
    if not found:
        return False
    labels = _labels([group for group, _ in found])
    few = len(found) <= len(figures.PALETTE)
    colours = figures.PALETTE if few else colormaps["viridis"](np.linspace(0, 0.92, len(found)))
    with figures.style():
        figure = Figure(figsize=(figures.WIDTH, 1.15 * ROW), layout="constrained")
        axes = figure.add_subplot()
        for i, (group, both) in enumerate(found):
            colour = colours[i]
            for key, dash in (("train_accuracy", (0, (3, 1.5))), ("validation_accuracy", "-")):
                x, marker = range(1, len(both[key]) + 1), "o" if len(both[key]) < 20 else ""
                face = colour if key == "validation_accuracy" else "white"  # one epoch has no line to tell them apart
                look: dict[str, Any] = {"color": colour, "linestyle": dash, "markerfacecolor": face}
                if len(x):
                    label = f"{labels[group.label]}, {key.partition('_')[0]}"
                    axes.plot(x, 100 * both[key], marker=marker, label=label, **look)
        axes.set_xlabel("epoch")
        axes.set_ylabel("accuracy, %")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figures.save(figure, path)
    return True


def sweep(groups: Sequence[Group], path: Path) -> bool:
    """Accuracies over the learning rate or the temperature, where a method was run with three or more of them."""
    key, name = ("options.lr", "learning rate α")
    if len({str(group.setting(key)) for group in groups}) == 1:
        key, name = ("options.temperature", "temperature τ")
    values = {float(v): group for group in groups if isinstance(v := group.setting(key), int | float)}
    if not len(values) == len(groups) >= 3 or len({group.strategy for group in groups}) > 1:
        return False
    with figures.style():
        figure = Figure(figsize=(0.7 * figures.WIDTH, ROW), layout="constrained")
        axes = figure.add_subplot()
        for i, part in enumerate(("train", "validation", "test")):
            stats = {x: values[x].stat(f"{part}_accuracy") for x in sorted(values)}
            shown = {x: s for x, s in stats.items() if s.n}
            spread = [100 * s.std if s.n > 1 else 0.0 for s in shown.values()]
            look: dict[str, Any] = {"color": figures.PALETTE[i], "marker": figures.MARKERS[i], "label": part}
            axes.errorbar(list(shown), [100 * s.mean for s in shown.values()], yerr=spread, capsize=2, **look)
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel("accuracy, %")
        axes.legend(frameon=False)
        figures.save(figure, path)
    return True


def weights(groups: Sequence[Group], path: Path) -> bool:
    """Histogram of P(w = +1) after each task, a row for each method."""
    found = [(group, counts) for group in groups if (counts := _counts(group.finished[0])) is not None]
    if not found:
        return False
    tasks = max(len(counts) for _, counts in found)
    labels = _labels([group for group, _ in found])
    with figures.style():
        figure = Figure(figsize=(figures.WIDTH, 0.6 * ROW * len(found)), layout="constrained")
        panels = figure.subplots(len(found), tasks, squeeze=False, sharex=True, sharey=True)
        for row, (group, counts) in zip(panels, found, strict=True):
            for task, (axes, count) in enumerate(zip(row, counts, strict=False), 1):
                edges = np.linspace(0, 1, len(count) + 1)
                axes.stairs(count / count.sum(), edges, fill=True, color=figures.PALETTE[0])
                axes.set_title(f"{labels[group.label]}, task {task}", fontsize=8)
        for axes in panels[-1]:
            axes.set_xlabel("P(w = +1)")
        for axes in panels[:, 0]:
            axes.set_ylabel("share of weights")
        figures.save(figure, path)
    return True


def in_order(stream: Stream) -> list[Group]:
    """The rows of a table: by strategy, from large settings to small ones, the mode before the mean."""

    def place(group: Group) -> tuple[str, float, float, float]:
        lr, temperature, samples = (_as_number(group.setting(key)) for key in (*_SWEPT, "mc_samples"))
        return group.strategy, -lr, -temperature, samples

    return sorted(stream.compared, key=place)


_SWEPT = ("options.lr", "options.temperature")


def _as_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _labels(groups: Sequence[Group]) -> dict[str, str]:
    """Group's label → its strategy, with the settings that tell it apart from others of that strategy."""
    names = {}
    for group in groups:
        others = [other for other in groups if other.strategy == group.strategy]
        told = [key for key in _SYMBOLS if len({str(other.setting(key)) for other in others}) > 1]
        words = [f"{_SYMBOLS[key]}{_plain(group.setting(key))}" for key in told]
        names[group.label] = f"{group.strategy} ({', '.join(words)})" if words else group.strategy
    return names


_SYMBOLS = {"options.lr": "α = ", "options.temperature": "τ = ", "batch_norm": "statistics: ", "mc_samples": "C = "}


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _arrays(run: Run) -> dict[str, Array] | None:
    try:
        with np.load(run.path / "prediction.npz", allow_pickle=False) as file:
            return {name: file[name] for name in ("grid", "outputs", "train_x", "train_y")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _counts(run: Run) -> Array | None:
    try:
        data: Any = json.loads((run.path / "weights.json").read_text(encoding="utf-8"))
        return np.array(data["probability_counts"], float)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _by_epoch(group: Group) -> dict[str, Array]:
    """Accuracies by epoch, mean over the group's runs; a second run folder of one training has no epochs."""
    keys = ("train_accuracy", "validation_accuracy")
    series: dict[str, list[list[float]]] = {key: [] for key in keys}
    for run in group.finished:
        events = _epochs(run)
        for key in keys:
            values = [event[key] for event in events if isinstance(event.get(key), int | float)]
            series[key] += [values] if values else []
    return {
        key: np.mean([v[: min(map(len, values))] for v in values], 0) if values else np.array([])
        for key, values in series.items()
    }


def _epochs(run: Run) -> list[dict[str, Any]]:
    try:
        lines = (run.path / "events.jsonl").read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []
    return [event for event in events if isinstance(event, dict) and event.get("event") == "epoch"]
