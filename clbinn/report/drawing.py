"""The figures of one stream: which there are, what they are called, and what stands below them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clbinn.errors import unwritable
from clbinn.report import figures
from clbinn.report.groups import Stream

__all__ = ["Drawn", "Section", "draw"]


@dataclass(frozen=True)
class Drawn:
    """A figure on disk: the PNG, with the SVG beside it."""

    path: Path
    title: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One stream of a page with its figures."""

    stream: Stream
    figures: tuple[Drawn, ...]


def draw(stream: Stream, folder: Path, suffix: str = "") -> tuple[Drawn, ...]:
    """Draw what there is to draw of a stream into `folder`, and remove what an earlier report has left.

    Args:
        stream: The stream.
        folder: Where the files go.
        suffix: Ends the files' names, to tell streams in one folder apart.

    Raises:
        UserError: A file can't be written.
        RunError: The disk is full.
    """
    drawn = []
    for name, figure, title, caption in _plan(stream):
        path = folder / f"{name}{suffix}.png"
        try:
            if figure(stream, path):
                drawn.append(Drawn(path, title, caption))
            else:
                path.unlink(missing_ok=True)
                path.with_suffix(".svg").unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(f"{path}: the figure", error) from None
    return tuple(drawn)


def _plan(stream: Stream) -> list[tuple[str, Callable[[Stream, Path], bool], str, str]]:
    several = len(stream.seeds) > 1
    spread = "Mean over seeds; bands are ± one standard deviation." if several else "One seed."
    over_time = "Accuracy of a task from the moment it was learned; the newest has had no time to be forgotten."
    if stream.num_tasks - 1 > figures.PANELS:
        over_time += f" {figures.PANELS} of {stream.num_tasks:,} tasks."
    cells = (
        "Accuracy in percent on each task (column) after each task (row); row 0 is the untrained network. "
        "Below the stairs: tasks learned so far; above them: tasks to come." + (" Mean over seeds." if several else "")
    )
    scale = "Bytes that a method keeps, on a logarithmic scale."
    return [
        ("average_accuracy", figures.average_accuracy, "Average accuracy after each task", spread),
        ("tasks_over_time", figures.tasks_over_time, "Each task over time", over_time),
        ("matrices", figures.matrices, "Accuracy matrices", cells),
        ("memory", figures.memory, "Accuracy against memory", scale),
    ]
