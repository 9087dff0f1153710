"""The report as one HTML page: opens offline, needs no script, escapes everything that recipes and runs bring along."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clbinn.report import tables
from clbinn.report.drawing import Drawn, Section
from clbinn.report.figures import styles
from clbinn.report.groups import Group, Stream, stat
from clbinn.report.runs import Run
from clbinn.report.style import CSS
from clbinn.report.targets import Verdict

__all__ = ["document", "figure", "index", "page", "target_section"]

# nothing is loaded from anywhere: pictures stand in the page, scripts are forbidden
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_HIGHER_IS_BETTER = {"average_accuracy", "backward_transfer", "learning_accuracy", "average_incremental_accuracy"}
_RANKED = _HIGHER_IS_BETTER - {"backward_transfer"} | {"nll"}  # who learns nothing forgets nothing
_COST = (
    "Of one run, mean over seeds. Bits: of a weight that predicts. Memory: all that is kept to go on learning, such as "
    "λ and λ0, each a real number a weight."
)
_INLINE_SVG_UP_TO = 2_000_000  # bytes; above it the PNG is smaller and as sharp


def page(sections: Sequence[Section], verdicts: Sequence[Verdict] | None) -> str:
    """The page of one benchmark: a section for each stream, then targets."""
    title = sections[0].stream.title if len(sections) == 1 else sections[0].stream.benchmark
    body = "".join(_section(section) for section in sections)
    return document(title, body + target_section(verdicts))


def index(links: Mapping[str, Sequence[Stream]], verdicts: Sequence[Verdict] | None) -> str:
    """The page that leads to the reports of several benchmarks.

    Args:
        links: Folder of a report, relative to this page → its streams.
        verdicts: Targets judged over all benchmarks, or None.
    """
    rows = []
    for folder, members in links.items():
        for stream in members:
            best = stream.compared[0] if stream.compared else None
            link = f'<a href="{quote(folder)}/report.html">{escape(stream.title)}</a>'
            acc = tables.percent(best.stat("average_accuracy")) if best else tables.MISSING
            cells = [escape(tables.facts(stream)), escape(best.label) if best else tables.MISSING, escape(acc)]
            rows.append(f'<tr><th scope="row">{link}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{t}</th>' for t in ("Stream", "Runs", "Highest average accuracy", "ACC, %"))
    table = _scroll(f"<table class=text><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    return document("Results", f"<h1>Results</h1>{table}{target_section(verdicts)}")


def document(title: str, body: str, beside: str = "report.md, summary.csv") -> str:
    """A whole page around `body`, which is markup; `title` is text, and `beside` names the files of its numbers."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n{body}\n"
        f"<footer>Written by clbinn from the run folders. The same numbers: {escape(beside)}; "
        "figures as PNG and SVG beside this page.</footer>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    stream = section.stream
    parts = [f'<section class="stream">\n<h1>{escape(stream.title)}</h1>', _lead(stream), _headline(stream)]
    parts += [figure(drawn) for drawn in section.figures]
    parts += [_recipes(stream), _environment(stream), _runs(stream), "</section>"]
    return "\n".join(parts)


def _lead(stream: Stream) -> str:
    return f'<p class="facts"><b>{escape(stream.benchmark)}</b> · {escape(tables.facts(stream))}</p>'


def _headline(stream: Stream) -> str:
    if not stream.compared:
        return "<p>No run is finished yet.</p>"
    quality = _table(stream, tables.QUALITY)
    cost = _table(stream, tables.COST)
    results = f'<h2>Results</h2>{quality}<p class="note">{escape(_legend(stream))}</p>'
    return f'{results}<h2>Cost</h2>{cost}<p class="note">{_COST}</p>'


def _table(stream: Stream, columns: Sequence[tables.Column]) -> str:
    look = styles(stream.groups)
    difference = tables.difference_title(stream)
    heads = [_head("Strategy"), _head("n")]
    for column in columns:
        heads.append(_head(column.title, column.unit))
        if column.key == "average_accuracy" and difference:
            heads.append(_head(difference, "points, 95 % interval"))
    best = {column.key: _best(stream, column.key) for column in columns if column.key in _RANKED}
    rows = []
    for group in stream.compared:
        dot = f'<span class="dot" style="background:{look[group.label]["color"]}"></span>'
        small = f"<small>{escape(tables.protocol(group)).replace(' = ', '&nbsp;=&nbsp;')}</small>"
        cells = [f'<th scope="row">{dot}{escape(group.label)}{small}</th>', _cell(str(len(group.finished)))]
        for column in columns:
            css = "best" if any(one is group for one in best.get(column.key, ())) else ""
            cells.append(_cell(tables.cell(column, group), css))
            if column.key == "average_accuracy" and difference:
                text = tables.difference_cell(stream, group)
                cells.append(_cell("reference" if group is stream.reference else text))
        rows.append(f"<tr{' class=reference' if group is stream.reference else ''}>{''.join(cells)}</tr>")
    return _scroll(f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _legend(stream: Stream) -> str:
    text = (
        "Mean ± standard deviation over n seeds, at the end of the stream, by falling ACC. ACC: average accuracy; "
        "BWT: backward transfer; AIA: average of ACC after each task; NLL and ECE of the predictive distribution. "
        "Bold: the best of a column. BWT, forgetting and ECE have no bold: who learns nothing does well there."
    )
    if stream.reference and tables.difference_title(stream):
        name = stream.reference.label
        text += f" Δ: mean difference to {name} over the seeds that both have, with Student's 95 % interval."
    return text


def _best(stream: Stream, key: str) -> list[Group]:
    """Those with the best mean, of the groups that have the number from all their runs."""
    found = [(group.stat(key), group) for group in stream.compared]
    means = {stat.mean for stat, _ in found if math.isfinite(stat.mean)}
    if len(means) < 2:
        return []
    best = max(means) if key in _HIGHER_IS_BETTER else min(means)
    return [group for stat, group in found if stat.mean == best and stat.n == len(group.finished)]


def _head(title: str, unit: str = "", css: str = "") -> str:
    small = f" <small>{escape(unit)}</small>" if unit else ""
    return f'<th scope="col"{f" class={css}" if css else ""}>{escape(title)}{small}</th>'


def _cell(text: str, css: str = "") -> str:
    mean, plus_minus, spread = text.partition(" ± ")
    inner = f'<span class="mean">{escape(mean)}</span>'
    if plus_minus:
        inner += f'<span class="sd"> ± {escape(spread)}</span>'
    elif text.endswith("]"):
        mean, _, interval = text.partition(" [")
        inner = f'{escape(mean)}<span class="ci">[{escape(interval)}</span>'
    return f"<td{f' class={css}' if css else ''}>{inner}</td>"


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0">{table}</div>'


def figure(drawn: Drawn) -> str:
    """A figure with its title and caption; the picture stands in the page, its files are linked."""
    svg = drawn.path.with_suffix(".svg")
    links = f'<a href="{escape(drawn.path.name)}">PNG</a>, <a href="{escape(svg.name)}">SVG</a>'
    alt = escape(f"{drawn.title}. {drawn.caption}", quote=True)
    return (
        f'<h2>{escape(drawn.title)}</h2>\n<figure><img alt="{alt}" src="{_data_uri(svg)}">'
        f"<figcaption>{escape(drawn.caption)} {links}.</figcaption></figure>"
    )


def _data_uri(svg: Path) -> str:
    small = svg.stat().st_size <= _INLINE_SVG_UP_TO
    source, kind = (svg, "svg+xml") if small else (svg.with_suffix(".png"), "png")
    return f"data:image/{kind};base64,{base64.b64encode(source.read_bytes()).decode()}"


def _recipes(stream: Stream) -> str:
    parts = ["<h2>Recipes, resolved</h2>"]
    for group in stream.groups:
        text = next((run.recipe_text for run in group.runs if run.recipe_text), "")
        provenance = group.setting("provenance")
        about = " · ".join(str(part) for part in (provenance, group.hash) if part)
        head = f"<summary>{escape(group.label)}<span>{escape(about)}</span></summary>"
        parts.append(f"<details>{head}<pre>{escape(text) or 'recipe.yaml is missing'}</pre></details>")
    return "\n".join(parts)


def _environment(stream: Stream) -> str:
    found = [_flat(run.environment) for run in stream.runs if run.environment]
    if not found:
        return ""
    rows = []
    for key in dict.fromkeys(key for facts in found for key in facts):
        values = list(dict.fromkeys(facts[key] for facts in found if key in facts))
        text = values[0] if len(values) == 1 else " | ".join(values[:4]) + (" | …" if len(values) > 4 else "")
        rows.append(f'<tr><th scope="row">{escape(key)}</th><td class="wrap">{escape(text)}</td></tr>')
    table = f"<table class=text><tbody>{''.join(rows)}</tbody></table>"
    note = "" if len(found) == 1 else '<p class="note">Values that differ between runs stand side by side.</p>'
    return f"<h2>Environment</h2><details><summary>{len(rows)} facts</summary>{note}{_scroll(table)}</details>"


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and len(prefix) < 100:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)[:300]
    return flat


def _runs(stream: Stream) -> str:
    rest = [run for run in stream.runs if run.status != "finished"]
    done = [run for run in stream.runs if run.status == "finished"]
    text = "<h2>Runs</h2>"
    if rest:
        text += _run_table(rest)
    if done:
        text += f"<details><summary>{len(done)} finished</summary>{_run_table(done)}</details>"
    return text


def _run_table(runs: Sequence[Run]) -> str:
    heads = "".join(_head(t) for t in ("Run", "Seed", "Status", "ACC, %", "Training"))
    rows = "".join(_run(run) for run in runs)
    return _scroll(f"<table class=text><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")


def _run(run: Run) -> str:
    css = {"finished": "good", "incomplete": "soft"}.get(run.status, "bad")
    status = f"{run.status}: {run.note}" if run.note else run.status
    one = stat([run.number("average_accuracy")]), stat([run.number("seconds_train")])
    acc, seconds = tables.percent(one[0]), tables.duration(one[1])
    return (
        f'<tr><th scope="row">{escape(run.path.parent.name)}</th><td>{run.seed}</td>'
        f'<td class="wrap {css}">{escape(status)}</td><td>{escape(acc)}</td><td>{escape(seconds)}</td></tr>'
    )


def target_section(verdicts: Sequence[Verdict] | None) -> str:
    """The published numbers beside ours; nothing when there are none."""
    if not verdicts:
        return ""
    note = (
        f"{tables.tally(verdicts)}: not worse than the published mean by more than the tolerance. "
        "Accuracies in percent. A run with fewer epochs than the published one is shown, not judged."
    )
    measured = [v for v in verdicts if v.outcome != "not run"]
    rest = [v for v in verdicts if v.outcome == "not run"]
    text = f'<h2>Published numbers</h2><p class="note">{escape(note)}</p>'
    if measured:
        text += _target_table(measured)
    if rest:
        text += f"<details><summary>{len(rest)} not run</summary>{_target_table(rest)}</details>"
    return text


def _target_table(verdicts: Sequence[Verdict]) -> str:
    titles, rows = tables.target_rows(verdicts)
    colours = {"reproduced": "good", "short": "bad"}
    body = []
    for verdict, (name, *numbers, outcome, evidence, source) in zip(verdicts, rows, strict=True):
        cells = "".join(f"<td>{escape(number)}</td>" for number in numbers)
        words = f'<td class="left {colours.get(verdict.outcome, "soft")}">{escape(outcome)}</td>'
        words += f'<td class="left">{escape(evidence)}</td><td class="wrap">{escape(source)}</td>'
        body.append(f'<tr><th scope="row">{escape(name)}</th>{cells}{words}</tr>')
    heads = "".join(_head(t, css="left" if t in ("Outcome", "Evidence", "Source") else "") for t in titles)
    return _scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>")
