"""The command line. Each command imports what it needs when it runs: help answers without torch or pydantic."""

import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from clbinn.errors import RecipeError, RunError, UserError
from clbinn.output import replace_unknown, to_stderr, to_stdout

if TYPE_CHECKING:
    from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["cli", "main"]

MAX_SEED, MAX_SEEDS = 10**9 - 1, 10_000


def _seeds(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int] | None:
    """Seeds as `0..4` (both ends included), `0,2,5` or a mixture: each once, in the order given."""
    if text is None:
        return None
    seeds: dict[int, None] = {}
    for part in text.split(","):
        first, dots, last = (number.strip() for number in part.partition(".."))
        if not dots:
            last = first
        if not all(number.isascii() and number.isdecimal() and len(number) < 10 for number in (first, last)):
            raise click.BadParameter(f"'{text}': write 0..4 for a range, or 0,2,5")
        if not 0 <= int(last) - int(first) < MAX_SEEDS:
            raise click.BadParameter(f"'{part}': a range goes upwards, over at most {MAX_SEEDS} seeds")
        seeds.update(dict.fromkeys(range(int(first), int(last) + 1)))
    return list(seeds)


def _device(_ctx: click.Context, _param: click.Parameter, name: str) -> str:
    """The name as it is, if it can be a device; whether it is there is known when torch has been loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", name):
        raise click.BadParameter(f"'{name}': expected auto, cpu, cuda, cuda:NUMBER or mps")
    return name


Command = Callable[..., Any]


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options in one decorator, in the order of the help."""

    def decorate(function: Command) -> Command:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a field, e.g. train.epochs=3, options.lr=1e-3, benchmark.tasks.count=10. May be repeated.",
)
data_root_option = click.option(
    "--data-root", type=FOLDER, envvar="CLBINN_DATA", show_envvar=True, help="Folder with the data sets."
)
download_option = click.option(
    "--download/--no-download", default=None, help="May missing data be fetched?  [default: as the recipe]"
)
out_option = click.option(
    "--out", type=FOLDER, default=Path("runs"), show_default=True, help="Folder that takes the results."
)
device_option = click.option(
    "--device",
    callback=_device,
    metavar="DEVICE",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:NUMBER or mps.",
)
machine_options = options(
    click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time."),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Processes of this machine, or a Ray cluster (extra ray).",
    ),
    click.option("--ray-address", metavar="ADDRESS", help="Ray cluster to join; without it Ray looks for one."),
    click.option("--gpus-per-run", type=click.FloatRange(min=0), help="Share of a GPU that Ray gives to each run."),
    device_option,
)


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("clbinn")
    except metadata.PackageNotFoundError:
        version = "from a checkout, not installed"
    to_stdout(f"clbinn {version}")
    ctx.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: clbinn run permuted_digits -s bayesbinn_small -s naive -s ewc",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def cli() -> None:
    """Continual learning with Bayesian binary neural networks."""


@cli.command()
@click.argument("benchmark")
@click.option(
    "-s", "--strategy", "strategies", metavar="STRATEGY", multiple=True, help="May be repeated.  [default: bayesbinn]"
)
@click.option("--seeds", callback=_seeds, default="0", show_default=True, metavar="SEEDS", help="As 0..4 or 0,2,5.")
@set_option
@out_option
@machine_options
@data_root_option
@download_option
def run(
    benchmark: str, strategies: Sequence[str], seeds: list[int], overrides: Sequence[str], out: Path, **settings: Any
) -> None:
    """Run strategies on a stream of tasks, once per seed.

    BENCHMARK and STRATEGY are names that `clbinn list` shows, or paths of YAML files. The same command again goes on
    with what was cut off and skips what is finished.
    """
    stream, methods = _load(benchmark, strategies or ["bayesbinn"], overrides)
    from clbinn import report, terminal
    from clbinn.experiments.grid import run_grid

    results = run_grid(stream, methods, seeds, out=out, progress=True, **settings)
    failed = [result for result in results if result.status == "failed"]
    finished = [result.path for result in results if result.status in ("done", "skipped")]
    if finished:
        to_stdout(terminal.matrices(finished))
        to_stdout(f"\nReport: {report.build(out / stream.name)}")
    if failed:
        raise RunError(
            f"{len(failed)} of {len(results)} runs failed; the same command tries them again\n"
            + "\n".join(f"{result.strategy}, seed {result.seed}: {result.message}" for result in failed)
        )


@cli.command()
@click.argument("benchmark")
@click.option(
    "-s",
    "--strategy",
    metavar="STRATEGY",
    default="bayesbinn",
    show_default=True,
    help="What is tuned: a name or a path.",
)
@click.option(
    "--space", type=FILE, required=True, help="YAML file with the ranges, e.g. search: {options.lr: [1e-3, 1e-2]}."
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=50, show_default=True, help="In all, earlier calls included."
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the search and of its runs."
)
@set_option
@out_option
@device_option
@data_root_option
@download_option
def tune(
    benchmark: str, strategy: str, space: Path, trials: int, overrides: Sequence[str], out: Path, **settings: Any
) -> None:
    """Search hyper-parameters and write the winning recipe."""
    stream, [method] = _load(benchmark, [strategy], overrides)
    from clbinn.experiments.tune import tune as search

    to_stdout(f"Winning recipe: {search(stream, method, space, trials=trials, out=out, **settings)}")


@cli.command()
@click.argument("directory", type=FOLDER, default=Path("runs"))
@click.option("--targets", is_flag=True, help="Mark each published number as reproduced or not.")
def report(directory: Path, targets: bool) -> None:
    """Draw tables, figures and a page from finished runs.

    DIRECTORY is where `clbinn run` left them, by default runs.
    """
    from clbinn.recipes import catalogue_folder
    from clbinn.report import build

    if not directory.is_dir():
        raise UserError(f"{directory}: there is no such folder; `clbinn run` makes one")
    to_stdout(build(directory, catalogue_folder("benchmarks") / "targets.csv" if targets else None))


@cli.command()
@click.argument("run", type=FOLDER)
@click.argument("file", type=FILE)
def export(run: Path, file: Path) -> None:
    """Write a run's network with one bit for each weight.

    RUN is a run folder, such as runs/permuted_digits/bayesbinn-1f3a9c02/seed-0; FILE is read by clbinn.packed.load.
    """
    from clbinn.experiments.export import export as write

    to_stdout(write(run, file))


@cli.command()
@click.argument("table", metavar="[ID]", required=False)
@click.option("--seeds", callback=_seeds, metavar="SEEDS", help="As 0..4 or 0,2,5.  [default: as the paper]")
@set_option
@out_option
@device_option
@data_root_option
@download_option
def reproduce(table: str | None, **settings: Any) -> None:
    """Run a table of the paper and compare with it.

    ID is a table's name, such as table13; without it, the tables are listed.
    """
    from clbinn.experiments import reproduce as paper

    if table is None:
        to_stdout(paper.overview())
        return
    done = paper.reproduce(table, **settings)
    to_stdout(done.text)
    if done.failed:
        raise RunError(f"{len(done.failed)} could not be run; the same command tries again what failed")


@cli.command("list")
def list_() -> None:
    """List the streams and strategies that come with clbinn."""
    from clbinn import recipes

    to_stdout("Streams (BENCHMARK)")
    _table([(name, recipes.load_benchmark(name).title) for name in recipes.catalogue("benchmarks")])
    to_stdout("\nStrategies (-s STRATEGY)")
    _table([(name, recipes.load_strategy(name).title) for name in recipes.catalogue("strategies")])


@cli.command()
@click.argument("name")
@set_option
def show(name: str, overrides: Sequence[str]) -> None:
    """Show one recipe, resolved.

    NAME is a stream, a strategy, or the path of a YAML file.
    """
    from clbinn import recipes

    if recipes.kind_of(name) == "benchmarks":
        to_stdout(recipes.dump(recipes.load_benchmark(name, overrides)), end="")
    else:
        to_stdout(recipes.dump(recipes.load_strategy(name, overrides)), end="")


@cli.command()
@data_root_option
def data(data_root: Path | None) -> None:
    """Show which data sets are found, and how to get the rest."""
    from clbinn.benchmarks.data import status

    rows = status(data_root)
    _table([(row.name, row.checked, str(row.path or "")) for row in rows])
    for row in rows:
        if row.how:
            to_stdout(f"\n{row.name}")
            for line in row.how.splitlines():
                to_stdout(
                    textwrap.fill(
                        line,
                        100,
                        initial_indent="  ",
                        subsequent_indent="    ",
                        break_long_words=False,
                        break_on_hyphens=False,
                    )
                )


def _load(
    benchmark: str, strategies: Sequence[str], overrides: Sequence[str]
) -> tuple["BenchmarkRecipe", list["StrategyRecipe"]]:
    """All recipes of a command, with the faults of all in one message; says whose code recipes of strangers run."""
    from clbinn import recipes

    of_benchmark, of_strategy = recipes.split_overrides(overrides)
    faults: list[str] = []

    def load(kind: "recipes.Kind", name: str) -> Any:
        try:
            if kind == "benchmarks":
                return recipes.load_benchmark(name, of_benchmark)
            return recipes.load_strategy(name, of_strategy)
        except RecipeError as error:
            faults.extend(line for line in str(error).splitlines() if line not in faults)

    stream = load("benchmarks", benchmark)
    methods = {name: load("strategies", name) for name in dict.fromkeys(strategies)}
    if faults:
        raise RecipeError("\n".join(faults))
    if not recipes.in_catalogue("benchmarks", benchmark):
        _announce(benchmark, recipes.targets(stream))
    for name, method in methods.items():
        if not recipes.in_catalogue("strategies", name):
            _announce(name, recipes.targets(method))
    return stream, list(methods.values())


def _announce(recipe: str, targets: Sequence[str]) -> None:
    for target in targets:
        to_stderr(f"clbinn: {recipe} runs {target}")


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    """Rows in columns; the last column is as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        to_stdout(f"  {'  '.join([*padded, last])}".rstrip())


def _leave(message: str, status: int) -> NoReturn:
    lines = message.splitlines()
    to_stderr("\n  ".join(["clbinn: error:", *lines]) if len(lines) > 1 else f"clbinn: error: {message}")
    sys.exit(status)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave: 0 done, 1 a run failed, 2 the user's mistake, 130 and 143 interrupted."""
    replace_unknown()
    try:
        status = cli.main(args, prog_name="clbinn", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        to_stdout(error.format_message())
        sys.exit(0)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "clbinn"
        _leave(f"{error.format_message().rstrip('.')} (see `{command} --help`)", error.exit_code)
    except UserError as error:
        _leave(str(error), 2)
    except RunError as error:
        _leave(str(error), 1)
    except (KeyboardInterrupt, click.Abort) as error:
        interrupt = error.__cause__ or error  # click wraps what it takes for a mere Ctrl-C
        to_stderr(f"\nclbinn: {str(interrupt) or 'interrupted'}")
        sys.exit(getattr(interrupt, "status", 130))
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
