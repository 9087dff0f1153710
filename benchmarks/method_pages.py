"""The table of measured numbers on each method's page of the docs, from the run folders in benchmarks/results."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from clbinn.report.groups import Group, Stat, Stream
from clbinn.report.tables import markdown_table, percent, plain, protocol
from clbinn.report.targets import Target

__all__ = ["PAGES", "write_measured"]

# page of docs/methods → beginnings of the names of its recipes
PAGES: dict[str, tuple[str, ...]] = {
    "adam": ("adam", "naive"),
    "avalanche": ("replay", "gem", "agem", "lwf", "mas", "gdumb", "ewc_avalanche", "si_avalanche"),
    "bayesbinn": ("bayesbinn",),
    "bop": ("bop",),
    "bounds": ("naive", "joint", "per_task"),
    "ewc": ("ewc",),
    "lrnet": ("lrnet",),
    "pmf": ("pmf",),
    "si": ("si", "si_avalanche"),
    "ste": ("ste",),
    "synaptic_metaplasticity": ("synaptic_metaplasticity",),
    "vcl": ("vcl",),
}
METRICS = (("average_accuracy", "accuracy, %"), ("test_mse", "mean squared error"))
TITLES = ["Stream", "Recipe", "Measured", "n", "Protocol", "Published"]


def write_measured(streams: Sequence[Stream], targets: Sequence[Target], folder: Path) -> None:
    """One file `<page>.md` in `folder` for each page: its recipes' numbers beside the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, names in PAGES.items():
        rows = [row for stream in streams for row in _rows(stream, names, targets)]
        text = markdown_table(TITLES, rows) if rows else "Nothing was measured yet.\n"
        (folder / f"{page}.md").write_text(text, encoding="utf-8")


def _rows(stream: Stream, names: Sequence[str], targets: Sequence[Target]) -> Iterator[list[str]]:
    for group in stream.compared:
        if not any(group.strategy == name or group.strategy.startswith(f"{name}_") for name in names):
            continue
        for metric, unit in METRICS:
            measured = group.stat(metric)
            if measured.n:
                number = percent(measured) if "%" in unit else plain(measured)
                named = f"{stream.title} ({unit})"
                yield [named, group.label, number, str(measured.n), protocol(group), _published(group, targets)]


def _published(group: Group, targets: Sequence[Target]) -> str:
    """The published numbers of the same stream, recipe and settings at the end of training, with their sources."""
    found = [t for t in targets if t.metric in ("average_accuracy", "test_accuracy") and t.matches(group)]
    tasks = group.setting("num_tasks")
    found += [t for t in targets if t.metric == f"average_accuracy@{tasks}" and t.matches(group)]
    return "; ".join(f"{percent(Stat(t.value, t.std or math.nan, 1))} ({t.source})" for t in found) or "–"
