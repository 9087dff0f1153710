"""From benchmarks/results: benchmarks/README.md, the main README's tables and figures, the docs' measured rows."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from method_pages import write_measured
from readme_table import write_tables

from clbinn import report
from clbinn.errors import RecipeError
from clbinn.experiments.summary import differences
from clbinn.recipes import load_benchmark, load_strategy
from clbinn.report.groups import streams
from clbinn.report.runs import find_runs
from clbinn.report.targets import load_targets

HERE = Path(__file__).parent
RESULTS = HERE / "results"
HEAD = """# Benchmarks

A YAML file here is a stream of tasks, `paper/` holds the appendix's experiments, `targets.csv` published numbers with
source and tolerance, `speed/` the timing scripts. What follows is written by `make results` from the run folders in
`results/`, each with its recipe, its machine and its commit. `clbinn run FOLDER/recipe.yaml -s FOLDER/recipe.yaml`
makes the run of a stream again, `clbinn reproduce` those of `mnist`, `two_moons` and `snelson`. Where fewer epochs were
run than a recipe has, the column Protocol says so.

"""


PICTURES = {  # a few methods of a stream, for the main README
    "comparison": (
        "permuted_mnist",
        ("joint", "bayesbinn_tuned_batch", "vcl", "ewc_online", "bayesbinn_tuned", "bayesbinn", "naive", "ste"),
    ),
    "comparison_10": (
        "permuted_mnist_10",
        ("joint", "bayesbinn_tuned_batch", "ewc_online", "replay", "bayesbinn_tuned", "si", "mas", "naive", "ste"),
    ),
}


def picture(path: Path, stream: str, methods: Sequence[str]) -> None:
    """The average accuracy after each task."""
    path.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        for method in methods:
            for runs in (RESULTS / stream).glob(f"{method}-????????"):
                shutil.copytree(runs, Path(folder) / stream / runs.name)
        report.build(Path(folder))
        shutil.copy(Path(folder) / stream / "average_accuracy.png", path)


def refresh_notes() -> None:
    """Let `protocol` in summary.json say how a run's settings differ from the recipes as they are now."""
    for recipe in RESULTS.rglob("recipe.yaml"):
        try:
            notes = differences(load_strategy(recipe)) + differences(load_benchmark(recipe))
        except RecipeError:  # a row of a table, whose notes compare with that
            continue
        path = recipe.with_name("summary.json")
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["protocol"] != notes:
            text = json.dumps({**summary, "protocol": notes}, indent=2, ensure_ascii=False)
            path.write_text(f"{text}\n", encoding="utf-8")


def main() -> None:
    """Build the reports, then the page."""
    refresh_notes()
    report.build(RESULTS, HERE / "targets.csv")
    page = HEAD + report.markdown(RESULTS, HERE / "targets.csv", measured_only=True)
    (HERE / "README.md").write_text(page, encoding="utf-8")
    docs = HERE.parent / "docs"
    measured = streams(find_runs(RESULTS))
    write_tables(measured, HERE.parent / "README.md")
    write_measured(measured, load_targets(HERE / "targets.csv"), docs / "methods" / "measured")
    for name, (stream, methods) in PICTURES.items():
        picture(docs / "images" / f"{name}.png", stream, methods)
    for made in RESULTS.rglob("*"):  # figures and pages are made again from the folders: only these are kept
        if made.suffix in (".html", ".svg", ".png") or made.name in ("report.md", "summary.csv"):
            made.unlink()


if __name__ == "__main__":
    main()
