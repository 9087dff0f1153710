"""Tables, figures and one HTML page, from run folders alone. Imports neither torch nor avalanche."""

from pathlib import Path

__all__ = ["build", "markdown"]


def build(directory: str | Path, targets: str | Path | None = None) -> Path:
    """Write the report of `directory` and return the path of its page; see `clbinn.report.build_report.build`."""
    from clbinn.report import build_report

    return build_report.build(Path(directory), None if targets is None else Path(targets))


def markdown(directory: str | Path, targets: str | Path | None = None, measured_only: bool = False) -> str:
    """The results below `directory` as Markdown, without writing a file; see `clbinn.report.build_report.markdown`."""
    from clbinn.report import build_report

    return build_report.markdown(Path(directory), None if targets is None else Path(targets), measured_only)
