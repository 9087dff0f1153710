"""Numbers as text: the headline table as rows, CSV and Markdown, and the accuracy matrix on a terminal."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clbinn.recipe_settings import tells_length
from clbinn.report.groups import Difference, Group, Stat, Stream
from clbinn.report.targets import Verdict, is_fraction

__all__ = [
    "COST",
    "QUALITY",
    "Column",
    "difference_text",
    "difference_title",
    "facts",
    "headline",
    "markdown_stream",
    "markdown_targets",
    "protocol",
    "sample_indices",
    "summary_csv",
    "target_rows",
]

MISSING = "–"
MINUS = "\N{MINUS SIGN}"


def percent(s: Stat) -> str:
    """`84.21 ± 0.33`, in percent or points."""
    return _spread(s, lambda x: f"{100 * x:.2f}")


def points(s: Stat) -> str:
    """`+1.20 ± 0.10`, in points of a percent, with its sign."""
    return _spread(s, _signed)


def plain(s: Stat) -> str:
    """`0.321 ± 0.004`."""
    return _spread(s, lambda x: f"{x:.3f}")


def duration(s: Stat) -> str:
    """Seconds as people say them: `41 s`, `3 min 12 s`, `2 h 05 min`."""
    if not math.isfinite(s.mean):
        return MISSING
    seconds = round(s.mean)
    if s.mean < 10:
        return f"{s.mean:.1f} s"
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def count(s: Stat) -> str:
    """`89,400`."""
    return f"{s.mean:,.0f}" if math.isfinite(s.mean) else MISSING


def bits(s: Stat) -> str:
    """`1` or `32`, at most one digit after the point."""
    return f"{round(s.mean, 1):g}" if math.isfinite(s.mean) else MISSING


def size(s: Stat) -> str:
    """Bytes in decimal units: `715 kB`."""
    value = s.mean
    if not math.isfinite(value):
        return MISSING
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _spread(s: Stat, form: Callable[[float], str]) -> str:
    if not math.isfinite(s.mean):
        return MISSING
    mean = form(s.mean).replace("-", MINUS)
    return mean if not math.isfinite(s.std) else f"{mean} ± {form(s.std).lstrip('+')}"


def _signed(x: float) -> str:
    text = f"{100 * x:+.2f}"
    return "0.00" if float(text) == 0 else text


@dataclass(frozen=True)
class Column:
    """One number of summary.json in the headline table."""

    key: str
    title: str
    unit: str
    form: Callable[[Stat], str]


QUALITY = (
    Column("average_accuracy", "ACC", "%", percent),
    Column("backward_transfer", "BWT", "points", points),
    Column("forgetting", "Forgetting", "points", percent),
    Column("learning_accuracy", "Learning acc.", "%", percent),
    Column("average_incremental_accuracy", "AIA", "%", percent),
    Column("nll", "NLL", "nats", plain),
    Column("ece", "ECE", "", plain),
)
COST = (
    Column("seconds_train", "Training", "", duration),
    Column("seconds_eval", "Evaluation", "", duration),
    Column("parameters", "Parameters", "", count),
    Column("weight_bits", "Bits", "a weight", bits),
    Column("memory_bytes", "Memory", "", size),
)


def difference_text(d: Difference | None) -> str:
    """`+1.20 [+0.80, +1.60]`, in points; without an interval for one common seed."""
    if d is None:
        return MISSING
    mean = _signed(d.mean).replace("-", MINUS)
    if not math.isfinite(d.low):
        return f"{mean} (n = 1)"
    return f"{mean} [{_signed(d.low)}, {_signed(d.high)}]".replace("-", MINUS)


def protocol(group: Group) -> str:
    """What a number depends on besides the method: epochs, statistics of batch normalisation, Monte-Carlo samples."""
    free = group.setting("protocol")
    notes = [str(note) for note in (free if isinstance(free, list) else [free]) if note not in (None, "")]
    epochs = group.setting("epochs")
    epochs = group.setting("train.epochs") if epochs is None else epochs
    parts = []
    if epochs is not None and not any(map(tells_length, notes)):
        parts.append("1 epoch" if epochs == 1 else f"{epochs} epochs")
    batch_norm, samples = group.setting("batch_norm"), group.setting("mc_samples")
    if batch_norm not in (None, "") and group.setting("model.norm") in (None, "batch"):  # else there is none
        parts.append(f"batch_norm {batch_norm}")
    if samples is not None:
        parts.append(f"C = {samples}" + (" (mode)" if samples == 0 else ""))
    return ", ".join([*parts, *notes])


def difference_title(stream: Stream) -> str:
    """Head of the column of differences; empty when there is nothing to compare with."""
    return f"Δ ACC to {stream.reference.label}" if stream.reference and len(stream.compared) > 1 else ""


def headline(stream: Stream, columns: Sequence[Column] = QUALITY) -> tuple[list[str], list[list[str]]]:
    """The finished strategies' numbers as text: titles, and one row each. The difference stands behind ACC."""
    difference = difference_title(stream)
    titles = ["Strategy", "n"]
    rows = [[group.label, str(len(group.finished))] for group in stream.compared]
    for column in columns:
        titles.append(f"{column.title} ({column.unit})" if column.unit else column.title)
        for row, group in zip(rows, stream.compared, strict=True):
            row.append(cell(column, group))
        if column.key == "average_accuracy" and difference:
            titles.append(difference)
            for row, group in zip(rows, stream.compared, strict=True):
                row.append("reference" if group is stream.reference else difference_cell(stream, group))
    titles.append("Protocol")
    for row, group in zip(rows, stream.compared, strict=True):
        row.append(protocol(group))
    return titles, rows


def cell(column: Column, group: Group) -> str:
    """A number, with its own n where some finished runs have it not."""
    found = group.stat(column.key)
    return column.form(found) + (f" (n = {found.n})" if 0 < found.n < len(group.finished) else "")


def difference_cell(stream: Stream, group: Group) -> str:
    """The paired difference, with its own n where it rests on fewer seeds than the row."""
    difference = stream.difference(group)
    fewer = difference is not None and 1 < difference.n < len(group.finished)
    return difference_text(difference) + (f" (n = {difference.n})" if difference is not None and fewer else "")


def summary_csv(streams: Sequence[Stream]) -> str:
    """Every group's numbers at full precision: mean and std of each, the paired difference and its interval."""
    keys = [*(column.key for column in (*QUALITY, *COST)), "forward_transfer"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    measured = [f"{key}_{part}" for key in keys for part in ("mean", "std")]
    paired = [f"difference_{part}" for part in ("mean", "low", "high", "n")]
    writer.writerow(["benchmark", "num_tasks", "strategy", "hash", "n", "seeds", "protocol", *measured, *paired])
    for stream in streams:
        for group in stream.compared:
            stats = [group.stat(key) for key in keys]
            numbers = [_cell(x) for s in stats for x in (s.mean, s.std)]
            d = stream.difference(group)
            differences = [""] * 4 if d is None else [_cell(d.mean), _cell(d.low), _cell(d.high), str(d.n)]
            seeds = " ".join(str(run.seed) for run in group.finished)
            about = [stream.benchmark, stream.num_tasks, group.strategy, group.hash, len(group.finished), seeds]
            writer.writerow([*about, protocol(group), *numbers, *differences])
    return out.getvalue()


def _cell(x: float) -> str:
    return repr(x) if math.isfinite(x) else ""


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; text is escaped, the first column stands left and the others right."""
    rule = ["---"] + ["---:"] * (len(titles) - 1)
    lines = [[_escape(cell) for cell in titles], rule, *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _escape(text: str) -> str:
    for mark in "\\|*_`[]":
        text = text.replace(mark, "\\" + mark)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


def markdown_stream(stream: Stream, level: int = 1) -> str:
    """Title, facts and headline table of one stream."""
    text = f"{'#' * level} {_escape(stream.title)}\n\n{facts(stream)}\n\n"
    if not stream.compared:
        return text + "No run is finished yet.\n"
    quality = markdown_table(*headline(stream))
    cost = markdown_table(*headline(stream, COST))
    note = "Mean ± standard deviation over n seeds"
    if stream.reference and difference_title(stream):
        name = _escape(stream.reference.label)
        note += f". Δ: paired difference to {name} over common seeds, with its 95 % t interval"
    return f"{text}{quality}\n{note}.\n\n{cost}"


def facts(stream: Stream) -> str:
    """`5 tasks · 3 seeds · 4 strategies · 12 of 13 runs finished`."""
    done = sum(run.status == "finished" for run in stream.runs)
    amounts = [
        (stream.num_tasks, "task", "tasks"),
        (len(stream.seeds), "seed", "seeds"),
        (len(stream.groups), "strategy", "strategies"),
    ]
    parts = [f"{n:,} {one if n == 1 else many}" for n, one, many in amounts if n]
    return " · ".join([*parts, f"{done} of {len(stream.runs)} runs finished"])


def target_rows(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Targets as text: what was published, what was measured, the outcome."""
    titles = ["Target", "Published", "Tolerance", "Measured", "n", "Outcome", "Evidence", "Source"]
    rows = []
    for v in verdicts:
        scale = 100.0 if is_fraction(v.target.metric) else 1.0
        published = _number(scale * v.target.value, scale * v.target.std)
        ours = _number(scale * v.ours.mean, scale * v.ours.std)
        tolerance = f"{scale * v.target.tolerance:.{2 if scale == 100 else 4}f}"
        n = str(v.ours.n) if v.ours.n else MISSING
        rows.append([v.target.id, published, tolerance, ours, n, v.text, v.target.evidence, v.target.source])
    return titles, rows


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many numbers were reproduced: those of others, and those of a plain program written to check ours."""
    rewritten = [v for v in verdicts if v.target.evidence == "rewrite"]
    published = [v for v in verdicts if v.target.evidence != "rewrite"]
    parts = []
    for members, what in ((published, "published numbers"), (rewritten, "numbers of an independent plain program")):
        if members:
            done = sum(v.outcome == "reproduced" for v in members)
            parts.append(f"{done} of {len(members)} {what} reproduced")
    return "; ".join(parts)


def _number(mean: float, std: float) -> str:
    if not math.isfinite(mean):
        return MISSING
    return f"{mean:.2f}" if not math.isfinite(std) else f"{mean:.2f} ± {std:.2f}"


def markdown_targets(verdicts: Sequence[Verdict], level: int = 2, measured_only: bool = False) -> str:
    """The targets as a section in Markdown, all of them or those that were measured."""
    shown = [v for v in verdicts if v.outcome != "not run"] if measured_only else verdicts
    rest = f" The {len(verdicts) - len(shown)} that were not run are left out." if len(shown) < len(verdicts) else ""
    head = f"{tally(verdicts)}.{rest} Accuracies in percent."
    return f"{'#' * level} Published numbers\n\n{head}\n\n{markdown_table(*target_rows(shown))}"


def sample_indices(size: int, at_most: int) -> list[int]:
    """At most `at_most` indices of `range(size)`, evenly spread, first and last among them."""
    if size <= at_most:
        return list(range(size))
    return sorted({round(float(x)) for x in np.linspace(0, size - 1, at_most)})
