"""Build the report: gather the runs of a directory, draw, and write page, Markdown and CSV beside them."""

import os
import tempfile
from pathlib import Path

from clbinn.errors import UserError, unwritable
from clbinn.report import page, tables
from clbinn.report.drawing import Section, draw
from clbinn.report.groups import Stream, streams
from clbinn.report.runs import find_runs
from clbinn.report.targets import Target, Verdict, compare, load_targets

__all__ = ["build", "markdown"]


def build(directory: Path, targets: Path | None = None) -> Path:
    """Write report.html, report.md, summary.csv and the figures.

    They stand in the benchmark's folder, or deeper in `directory` when that is one strategy or one run. With several
    benchmarks below `directory` each gets its own report, and a page in `directory` leads to them.

    Args:
        directory: `runs/`, `runs/<benchmark>/`, `runs/<benchmark>/<strategy>-<hash>/` or one run.
        targets: Published numbers to judge by; see `clbinn.report.targets`.

    Returns:
        The path of the page, a `report.html`.

    Raises:
        UserError: There is no run below `directory`, the targets can't be read or the report can't be written.
        RunError: The disk is full.
    """
    found = _streams(directory)
    published = load_targets(targets) if targets is not None else None
    folders = _benchmark_folders(directory, found)
    if len(folders) < 2:
        return _build_page(next(iter(folders), directory), found, published)
    for folder, members in folders.items():
        _build_page(folder, members, published)
    verdicts = compare(published, found) if published is not None else None
    _write(directory / "report.md", _markdown(found, verdicts))
    _write(directory / "summary.csv", tables.summary_csv(found))
    links = {folder.relative_to(directory.resolve()).as_posix(): members for folder, members in folders.items()}
    return _write(directory / "report.html", page.index(links, verdicts))


def markdown(directory: Path, targets: Path | None = None, measured_only: bool = False) -> str:
    """The headline tables of all streams below `directory`, and the targets if given, as Markdown.

    Args:
        directory: As for `build`.
        targets: As for `build`.
        measured_only: Leave out the targets that no run belongs to.

    Raises:
        UserError: There is no run below `directory`, or the targets can't be read.
    """
    found = _streams(directory)
    verdicts = compare(load_targets(targets), found) if targets is not None else None
    return _markdown(found, verdicts, measured_only=measured_only)


def _streams(directory: Path) -> list[Stream]:
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; `clbinn run` writes one")
    try:
        found = streams(find_runs(directory))
    except OSError as error:
        raise UserError(f"{error.filename or directory}: can't be read: {error.strerror or error}") from None
    if not found:
        raise UserError(f"{directory}: no run folders here; expected <benchmark>/<strategy>-<hash>/seed-<n>")
    return found


def _benchmark_folders(directory: Path, found: list[Stream]) -> dict[Path, list[Stream]]:
    """The benchmarks' folders below `directory`; empty when `directory` is one of them or lies deeper."""
    top = directory.resolve()
    folders: dict[Path, list[Stream]] = {}
    for stream in found:
        folder = stream.runs[0].path.parent.parent
        if top not in folder.parents:
            return {}
        folders.setdefault(folder, []).append(stream)
    return folders


def _build_page(folder: Path, found: list[Stream], published: list[Target] | None) -> Path:
    sections = []
    for k, stream in enumerate(found):
        suffix = "" if len(found) == 1 else f"-{k + 1}"
        sections.append(Section(stream, draw(stream, folder, suffix)))
    names = {stream.benchmark for stream in found}
    verdicts = compare([t for t in published if t.benchmark in names], found) if published is not None else None
    _write(folder / "report.md", _markdown(found, verdicts, sections))
    _write(folder / "summary.csv", tables.summary_csv(found))
    return _write(folder / "report.html", page.page(sections, verdicts))


def _markdown(
    found: list[Stream],
    verdicts: list[Verdict] | None,
    sections: list[Section] | None = None,
    measured_only: bool = False,
) -> str:
    parts = []
    for k, stream in enumerate(found):
        parts.append(tables.markdown_stream(stream))
        if sections is not None:
            parts += [f"![{d.title}]({d.path.name})\n\n{d.caption}\n" for d in sections[k].figures]
    if verdicts is not None:
        parts.append(tables.markdown_targets(verdicts, measured_only=measured_only))
    return "\n".join(parts)


def _write(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(f"{path}: the report", error) from None
    return path
