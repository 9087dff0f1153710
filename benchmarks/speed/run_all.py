"""All timing figures, one script after the other, into speed.json and speed.md with the facts about the machine.

Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measure import digits

from clbinn.experiments.engines.environment import WORKER_ENVIRONMENT
from clbinn.experiments.environment import environment

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"

# Each figure's script, and which of the options below it takes.
FIGURES = {
    "start": (),
    "step": ("threads", "data_root", "baseline"),
    "epoch": ("threads", "data_root"),
    "predict": ("threads", "data_root", "baseline"),
    "networks": ("threads",),
    "grid": (),
}


def command(figure: str, options: argparse.Namespace, file: Path) -> list[str]:
    """The command of a figure's script."""
    words = [sys.executable, str(HERE / f"{figure}.py"), "--json", str(file)]
    for name in FIGURES[figure]:
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    return [*words, "--quick"] if options.quick else words


def table(figures: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The page speed.md."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    notes = [f"{figure['figure']}: {note}" for figure in figures for note in figure["notes"]]
    rows = [
        f"| {figure['figure']} | {number['name']} | {digits(number['median'])} {number['unit']} | "
        f"{digits(number['p10'])} – {digits(number['p90'])} | {number['rounds']} | {_share(number)} |"
        for figure in figures
        for number in figure["numbers"]
    ]
    return "\n".join(
        [
            "# Timings",
            "",
            f"{facts['processor'] or facts['machine']}, {facts['cores']} cores, {facts['threads']} thread(s); "
            f"{facts['system']}; Python {facts['python']}, {packages}; commit {facts['git_commit']}.",
            "",
            *(f"- {note}" for note in notes),
            "",
            "| script | what | median | 10 % – 90 % | rounds | share of the limit |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _share(number: dict[str, Any]) -> str:
    return "" if number["share_of_limit"] is None else f"{100 * number['share_of_limit']:.0f} %"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "figures",
        nargs="*",
        metavar="FIGURE",
        help=f"only these, and only they are in the results then: {', '.join(FIGURES)}",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"where results go ({RESULTS})")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes nothing unless --out is given")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of torch (1)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="where MNIST is")
    parser.add_argument("--baseline", type=Path, metavar="DIR", help="a checkout of team-approx-bayes/BayesBiNN")
    options = parser.parse_args()
    unknown = [figure for figure in options.figures if figure not in FIGURES]
    if unknown:
        parser.error(f"no such figure: {', '.join(unknown)}; there are {', '.join(FIGURES)}")
    figures, failed = [], []
    with TemporaryDirectory() as folder:
        for figure in options.figures or FIGURES:
            print(f"\n{figure}", flush=True)
            file = Path(folder) / f"{figure}.json"
            done = subprocess.run(command(figure, options, file), env={**WORKER_ENVIRONMENT, **os.environ}, check=False)
            if done.returncode == 0:
                figures.append(json.loads(file.read_text(encoding="utf-8")))
            else:
                failed.append(figure)
    out = options.out or (None if options.quick else RESULTS)
    if out is not None and figures:
        facts = environment("cpu", options.threads, {})
        out.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"environment": facts, "figures": figures}, indent=2, ensure_ascii=False)
        (out / "speed.json").write_text(content + "\n", encoding="utf-8")
        (out / "speed.md").write_text(table(figures, facts), encoding="utf-8")
        print(f"\nwritten: {out / 'speed.json'}, {out / 'speed.md'}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
