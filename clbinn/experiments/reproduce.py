"""`clbinn reproduce ID`: run a table of the appendix, or go on with it, and say per row how it compares."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clbinn import recipes
from clbinn.errors import DataError, RunError, UserError, describe
from clbinn.experiments.paper import Method, Paper, load_paper, papers
from clbinn.output import to_stderr
from clbinn.recipe_faults import one_of
from clbinn.schema import StrategyRecipe, TargetSpec

__all__ = ["Reproduction", "overview", "reproduce"]

TITLES = {
    "table3": "Two moons: decision regions of BayesBiNN (mode, mean) and STE",
    "table4": "Snelson's regression: curves of BayesBiNN and STE",
    "table6": "MNIST over learning rates",
    "table7": "MNIST over temperatures",
    "table9": "MNIST, CIFAR-10, CIFAR-100: the settings of all methods (runs as table10)",
    "table10": "MNIST, CIFAR-10, CIFAR-100: all methods, and the curves of Figure 6",
    "table11": "BayesBiNN on LR-net's networks, and LR-net itself",
    "table13": "Permuted MNIST, five tasks, with and without the carried prior",
}
STREAM = "permuted_mnist"
STREAM_ROWS = (("bayesbinn", ()), ("bayesbinn_batch", ()), ("bayesbinn_no_prior", ()))
STREAM_SEEDS = 1

Report = Callable[[str], None]


class Reproduction(NamedTuple):
    """The comparison as text, and what could not be run, a line each."""

    text: str
    failed: list[str]


@dataclass(frozen=True)
class _Where:
    """What all runs of a call share."""

    out: Path
    device: str
    data_root: Path | None
    download: bool | None
    report: Report

    @property
    def machine(self) -> dict[str, Any]:
        """What every run gets: where the data are, and where it is computed."""
        return {"data_root": self.data_root, "download": self.download, "device": self.device}


def overview() -> str:
    """The tables that can be reproduced, as text."""
    width = max(map(len, TITLES))
    lines = [f"{table:{width}}  {title}" for table, title in TITLES.items()]
    return "\n".join([*lines, "", "A part of a table: table10/mnist, or table10/mnist/ste."])


def reproduce(
    table: str,
    *,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    out: Path = Path("runs"),
    device: str = "auto",
    data_root: Path | None = None,
    download: bool | None = None,
    report: Report | None = None,
) -> Reproduction:
    """Run a table's rows that are not finished, and compare all with the published numbers.

    Args:
        table: An ID of `overview`, or a part of one such as `table10/mnist` or `table10/mnist/ste`.
        seeds: As many as the paper's by default.
        overrides: `KEY=VALUE` for every row, e.g. `train.epochs=5`; `benchmark.…` for the data.
        out: Folder of all runs; the page is `<out>/<table>.html`.
        device: `auto`, `cpu`, `cuda`, …
        data_root: Searched first for data.
        download: Whether missing data may be downloaded; None as the recipe says.
        report: Gets lines of progress; standard error by default.

    Returns:
        The comparison, and the rows that failed; their reasons are in its text too.

    Raises:
        UserError: No such table, or recipe, device or options can't be used.
        RunError: No row could be run.
    """
    table = table.rstrip("/")
    name, _, part = table.partition("/")
    if name not in TITLES:
        raise UserError(f"there is no table '{name}'{one_of(name, TITLES)}")
    failed: list[str] = []
    where = _Where(Path(out), device, data_root, download, report or to_stderr)
    paths: list[Path] = []
    if name == "table13":
        paths = _run_stream(part, seeds, overrides, failed, where)
    else:
        chosen = [(paper, _methods(paper, part)) for paper in _papers(name, part, overrides)]
        for paper, methods in chosen:
            paths += _run_paper(paper, methods, seeds, failed, where)
    if not paths:
        raise RunError("\n".join(failed) or f"{table}: nothing was run")
    from clbinn.report import paper as pages

    published = recipes.catalogue_folder("benchmarks") / "targets.csv"
    notes = list(failed)
    prefix: str | None = f"{'table10' if name == 'table9' else name}/"
    changed = [override for override in overrides if override.partition("=")[0] != "train.epochs"]
    if changed:  # like with like: only the length of a run may differ, which the comparison says
        notes.append(f"Not compared with the paper, whose settings are others: {', '.join(changed)}")
        prefix = None
    return Reproduction(pages.build(table, TITLES[name], Path(out), paths, published, prefix, notes), failed)


def _papers(table: str, part: str, overrides: Sequence[str]) -> list[Paper]:
    wanted = part.partition("/")[0]
    found = []
    known = []
    for path in papers().values():
        paper = load_paper(path)
        if table in paper.tables:
            known.append(paper.benchmark.name)
            if wanted in ("", paper.benchmark.name):
                found.append(load_paper(path, overrides))
    if not found:
        raise UserError(f"{table} has no '{wanted}'{one_of(wanted, known)}")
    return found


def _methods(paper: Paper, part: str) -> list[tuple[Method, Method]]:
    """The rows that are wanted, each with the one that is shipped, checked before the first is trained for hours."""
    from clbinn.experiments.supervised_build import check_method

    row = part.partition("/")[2]
    shipped = load_paper(papers()[paper.name]).methods
    methods = [pair for pair in zip(paper.methods, shipped, strict=True) if row in ("", pair[0].name)]
    if not methods:
        raise UserError(f"{paper.name} has no '{row}'{one_of(row, [method.name for method in paper.methods])}")
    for method, _ in methods:
        check_method(method)
    return methods


def _run_paper(
    paper: Paper,
    methods: Sequence[tuple[Method, Method]],
    seeds: Sequence[int] | None,
    failed: list[str],
    where: "_Where",
) -> list[Path]:
    """The run folders of all rows; what could not be run is told in `failed`."""
    from clbinn.experiments import supervised, synthetic
    from clbinn.experiments.summary import changes

    train = supervised.train if paper.trainer == "supervised" else synthetic.train
    of_data = changes(paper.benchmark, load_paper(papers()[paper.name]).benchmark)
    paths: list[Path] = []
    for seed in range(paper.seeds) if seeds is None else seeds:
        for method, shipped in methods:
            try:
                found = train(
                    paper.benchmark,
                    method,
                    seed,
                    where.out,
                    report=where.report,
                    protocol=[*changes(method, shipped), *of_data],
                    **where.machine,
                )
            except DataError as error:
                failed.append(f"{paper.name}: not run: {error}")
                return paths
            except UserError:
                raise
            except Exception as error:
                failed.append(f"{paper.name}/{method.name}, seed {seed}: failed: {describe(error)}")
                continue
            paths += [path for path in found if path not in paths]  # of a sweep whose field is overridden
    return paths


def _run_stream(
    part: str,
    seeds: Sequence[int] | None,
    overrides: Sequence[str],
    failed: list[str],
    where: "_Where",
) -> list[Path]:
    """Table 13: the stream's strategies, with a histogram of the weights' probabilities after each task."""
    from clbinn.experiments.run import run

    of_benchmark, of_strategies = recipes.split_overrides(overrides)
    benchmark = recipes.load_benchmark(STREAM, of_benchmark)
    if part not in ("", STREAM):
        raise UserError(f"table13 has no '{part}'{one_of(part, [STREAM])}")
    paths: list[Path] = []
    for seed in range(STREAM_SEEDS) if seeds is None else seeds:
        for name, own in STREAM_ROWS:
            strategy = _with_histogram(recipes.load_strategy(name, [*own, *of_strategies]))
            try:
                show = _events(where.report, name, seed)
                path = run(benchmark, strategy, seed, where.out, progress=show, **where.machine)
            except DataError as error:
                failed.append(f"{STREAM}: not run: {error}")
                return paths
            except UserError:
                raise
            except Exception as error:
                failed.append(f"{STREAM}/{name}, seed {seed}: failed: {describe(error)}")
                continue
            _keep_histogram(path)
            if path not in paths:
                paths.append(path)
    return paths


def _with_histogram(strategy: StrategyRecipe) -> StrategyRecipe:
    plugin = TargetSpec(target="clbinn.experiments.weight_histogram.WeightHistogram")
    return strategy.model_copy(update={"plugins": [*strategy.plugins, plugin]})


def _keep_histogram(path: Path) -> None:
    """Write the histograms of a finished run's checkpoint as weights.json, which the report can read."""
    from clbinn.experiments import checkpoint
    from clbinn.experiments.files import replace_file

    state, _ = checkpoint.load_latest(path)
    plugins = (state or {}).get("learner", {}).get("plugins", {})
    counts = [value["counts"] for name, value in plugins.items() if name.endswith(":WeightHistogram")]
    if counts:
        replace_file(path / "weights.json", json.dumps({"probability_counts": counts[0]}) + "\n")


def _events(report: Report, name: str, seed: int) -> Callable[[dict[str, Any]], None]:
    def show(event: dict[str, Any]) -> None:
        if event["event"] == "task":
            report(f"{name} seed {seed}: task {event['task']} of {event['tasks']} learned")
        elif event["event"] == "note":
            report(event["text"])

    return show
