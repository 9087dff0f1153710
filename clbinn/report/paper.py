"""The page of one reproduced table: what was measured, how it compares with what is printed, and its figure."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from clbinn.errors import unwritable
from clbinn.report import drawing, page, paper_figures, tables
from clbinn.report.build_report import build as build_report
from clbinn.report.drawing import Drawn
from clbinn.report.groups import Group, Stream, streams
from clbinn.report.runs import read_run
from clbinn.report.targets import Target, Verdict, compare, is_fraction, load_targets

__all__ = ["build", "measured", "settings"]

# what tells rows of one strategy apart, where they differ
VARIED = ("model.kind", "options.lr", "options.temperature", "options.batch_norm", "mc_samples", "epochs")
NUMBERS = (
    *("train_accuracy", "validation_accuracy", "test_accuracy", "average_accuracy", "backward_transfer"),
    *("train_nll", "test_nll", "train_mse", "test_mse", "best_epoch", "seconds_train"),
)


def build(
    table: str, title: str, out: Path, paths: Sequence[Path], targets: Path, prefix: str | None, notes: Sequence[str]
) -> str:
    """Write `<out>/<table>.html` and .md with the figure beside them; return the comparison as text.

    Args:
        table: The table's ID, or a part of it, whose targets alone are compared; a `/` becomes `-` in the file's name.
        title: Stands at the top.
        out: The folder of all runs.
        paths: The table's run folders.
        targets: The published numbers.
        prefix: Of the IDs of those that this table has; None compares with none.
        notes: What could not be run, and why.

    Raises:
        UserError: A file can't be written, or the targets can't be read.
        RunError: The disk is full.
    """
    found = streams([read_run(path) for path in paths])
    verdicts: Sequence[Verdict] | None = None
    if prefix is not None:
        published = [target for target in load_targets(targets) if target.id.startswith(prefix)]
        verdicts = compare([target for target in published if _in_part(target, table)], found)
    name = table.replace("/", "-")
    figures = paper_figures.draw(found, out / name)
    for stream in found:
        figures += drawing.draw(stream, out, f"-{name}") if stream.num_tasks > 1 else ()
    texts = [_text(stream) for stream in found]
    for folder in {path.parent.parent for path in paths}:
        build_report(folder, targets)
    try:
        (out / f"{name}.html").write_text(_html(name, title, found, verdicts, figures, notes), encoding="utf-8")
        (out / f"{name}.md").write_text(_markdown(title, found, verdicts, figures, notes), encoding="utf-8")
    except OSError as error:
        raise unwritable(f"{out / name}: the page", error) from None
    parts = [title, *texts, _comparison(verdicts), *notes, f"Page: {out / f'{name}.html'}"]
    return "\n\n".join(part for part in parts if part)


def _in_part(target: Target, table: str) -> bool:
    """Whether a target is of a part such as `table10/cifar10/adam`: IDs name rows as the paper does, not as recipes."""
    _, benchmark, strategy = [*table.split("/"), "", ""][:3]
    return benchmark in ("", target.benchmark) and strategy in ("", target.strategy)


def measured(stream: Stream) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: each group of runs with the settings that differ, and the numbers there are."""
    groups = paper_figures.in_order(stream)
    varied = [key for key in VARIED if len({str(group.setting(key)) for group in groups}) > 1]
    numbers = [key for key in NUMBERS if any(group.stat(key).n for group in groups)]
    if "test_accuracy" in numbers and "average_accuracy" in numbers:
        numbers.remove("average_accuracy")  # the same number in a stream of one task
    units = [f"{key}, {_unit(key)}" if is_fraction(key) else key for key in numbers]
    titles = [text.replace("_", " ") for text in ("Method", *(k.rpartition(".")[2] for k in varied), *units, "seeds")]
    rows = []
    for group in groups:
        cells = [_number(key, group) for key in numbers]
        told = [tables.MISSING if (value := group.setting(key)) is None else str(value) for key in varied]
        rows.append([group.strategy, *told, *cells, str(len(group.finished))])
    return titles, rows


def _unit(key: str) -> str:
    return "points" if key == "backward_transfer" else "%"


def settings(stream: Stream) -> tuple[list[str], list[list[str]]]:
    """Titles and rows: how each method was trained, as Table 9 has it; mode and mean of one training are one row."""
    rows: dict[tuple[str, ...], None] = {}
    for group in paper_figures.in_order(stream):
        schedules = [_schedule(spec) for spec in group.setting("schedules") or () if isinstance(spec, Mapping)]
        cells = (
            group.strategy,
            str(group.setting("target")).rpartition(".")[2],
            _options(group.setting("options")),
            "; ".join(schedules) or tables.MISSING,
            *(str(group.setting(key)) for key in ("train.epochs", "train.batch_size")),
            "yes" if group.setting("augment") else "no",
        )
        rows[cells] = None
    titles = ["Method", "Class", "Options", "Schedule", "Epochs", "Batch size", "Augmentation"]
    return titles, [list(cells) for cells in rows]


def _schedule(spec: Mapping[str, Any]) -> str:
    name, options = str(spec.get("target")).rpartition(".")[2], _options(spec.get("options"))
    return f"{name} each {spec.get('unit', 'epoch')}" + (f" ({options})" if options != tables.MISSING else "")


def _options(options: Any) -> str:
    """Names and numbers, without those that choose how to predict."""
    told = {key: value for key, value in options.items() if key != "mc_samples"} if isinstance(options, Mapping) else {}
    parts = (f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items())
    return ", ".join(parts) or tables.MISSING


def _number(key: str, group: Group) -> str:
    value = group.stat(key)
    if not value.n:
        return tables.MISSING
    scale = 100.0 if is_fraction(key) else 1.0
    digits = 0 if key in ("best_epoch", "seconds_train") else 2 if is_fraction(key) else 3
    spread = f" ± {scale * value.std:.{digits}f}" if math.isfinite(value.std) else ""
    return f"{scale * value.mean:.{digits}f}{spread}"


def _text(stream: Stream) -> str:
    data = {str(group.setting("data")) for group in stream.compared if group.setting("data")}
    protocol = sorted({text for group in stream.compared for text in group.setting("protocol") or []})
    facts = "; ".join([*sorted(data), *protocol])
    return f"{stream.title}{f' ({facts})' if facts else ''}\n{_aligned(*measured(stream))}"


def _aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in [titles, *rows])
    )


def _comparison(verdicts: Sequence[Verdict] | None) -> str:
    """As text; None, where the settings are others than the paper's, is told by a note."""
    if verdicts is None:
        return ""
    if not verdicts:
        return "No printed number to compare with; the figures are what the paper shows."
    titles, rows = tables.target_rows(verdicts)
    kept = [titles.index(title) for title in ("Target", "Published", "Tolerance", "Measured", "n", "Outcome")]
    return _aligned([titles[k] for k in kept], [[row[k] for k in kept] for row in rows])


def _html(
    name: str,
    title: str,
    found: Sequence[Stream],
    verdicts: Sequence[Verdict] | None,
    figures: Sequence[Drawn],
    notes: Sequence[str],
) -> str:
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="note bad">{escape(note).replace(chr(10), "<br>")}</p>' for note in notes]
    for stream in found:
        titles, rows = measured(stream)
        link = f'<a href="{escape(stream.benchmark)}/report.html">all runs</a>'
        parts.append(f"<h2>{escape(stream.title)}</h2><p class=note>{_facts(stream)} {link}</p>")
        parts.append(_table(titles, rows))
        if _compares_methods(stream):
            parts += ["<h3>Settings</h3>", _table(*settings(stream), words=True)]
    parts += [page.figure(drawn) for drawn in figures]
    parts.append(page.target_section(verdicts) if verdicts else f"<p>{escape(_comparison(verdicts))}</p>")
    return page.document(title, "\n".join(parts), beside=f"{name}.md")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    kind = ' class="text"' if words else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _compares_methods(stream: Stream) -> bool:
    return len({group.strategy for group in stream.compared}) > 1


def _facts(stream: Stream) -> str:
    return (
        escape(_text(stream).partition("\n")[0].removeprefix(stream.title).strip(" ()")) or "as the paper's protocol."
    )


def _markdown(
    title: str,
    found: Sequence[Stream],
    verdicts: Sequence[Verdict] | None,
    figures: Sequence[Drawn],
    notes: Sequence[str],
) -> str:
    parts = [f"# {title}", *notes]
    for stream in found:
        parts += [f"## {_text(stream).partition(chr(10))[0]}", tables.markdown_table(*measured(stream))]
        if _compares_methods(stream):
            parts += ["### Settings", tables.markdown_table(*settings(stream))]
    parts += [f"![{drawn.title}]({drawn.path.name})\n\n{drawn.caption}" for drawn in figures]
    parts.append(tables.markdown_targets(verdicts) if verdicts else _comparison(verdicts))
    return "\n\n".join(part for part in parts if part) + "\n"
