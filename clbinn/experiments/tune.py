"""Search for settings of a strategy with Optuna, on a part of a stream or on another stream.

The file that says what is searched:

    search:
      options.temperature: {low: 0.01, high: 1.0, log: true}    # a range; whole numbers if both ends are
      options.init_natural: [0.0, 10.0]                          # a choice
      train.epochs: {low: 5, high: 20}
    tasks: 2                          # select on the first tasks of the stream alone …
    stream: permuted_mnist_held_out   # … or on another stream, which the result names
"""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from clbinn import yaml_source
from clbinn.errors import RecipeError, RunError, UserError
from clbinn.experiments.files import disk_errors, drop_unfinished_line, make_folder, replace_file
from clbinn.experiments.store import BusyError
from clbinn.experiments.summary import differences
from clbinn.output import to_stderr
from clbinn.recipe_faults import recipe_faults
from clbinn.recipes import dump, load_benchmark, recipe_hash, targets
from clbinn.schema import MAX_NAME, AvalancheTasks, BenchmarkRecipe, Model, Rotate, StrategyRecipe
from clbinn.seeding import derive_seed
from clbinn.yaml_source import Position, Source, raise_faults

__all__ = ["Space", "first_tasks", "tune", "with_settings"]

FOUND = "_found"


class Range(Model):
    """From `low` to `high`, both included; `log` searches orders of magnitude evenly."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be under high, and above 0 for log")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]


def _range_or_list(value: Any, check: Callable[[Any], Any]) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "recipe",
            "expected a list of choices, or {low: …, high: …, log: false} with low under high, above 0 for log",
        ) from None


class Space(Model):
    """What is searched, and on what it is selected."""

    search: dict[str, Annotated[Range | Choices, WrapValidator(_range_or_list)]] = Field(min_length=1)
    tasks: int | None = Field(None, ge=1)
    stream: str | None = None


def tune(
    benchmark: BenchmarkRecipe,
    strategy: StrategyRecipe,
    space: Path,
    *,
    out: Path,
    trials: int = 50,
    seed: int = 0,
    device: str = "auto",
    data_root: Path | None = None,
    download: bool | None = None,
    report: Callable[[str], None] = to_stderr,
) -> Path:
    """Try settings and write the recipe of the best, by average accuracy at the end. A search that was cut off goes on.

    Args:
        benchmark: The stream that the settings are for.
        strategy: The recipe whose settings are searched.
        space: The YAML file with the ranges.
        out: Folder of runs; trials and result go to `<out>/<benchmark>/tune-<strategy>-<hash>`, with a hash of all that
            decides the result: ranges, selection, recipe and seed.
        trials: Number of trials, those of earlier calls included.
        seed: Of the search and of every run in it.
        device: As in `run`.
        data_root: As in `run`.
        download: As in `run`.
        report: Gets a line after each trial; standard error by default.

    Returns:
        The winning recipe, whose `provenance` names what it was selected on.

    Raises:
        UserError: The file or a setting in it can't be used, or Optuna isn't installed.
        RunError: No trial came to its end.
    """
    optuna = _optuna()
    wanted = _read(space)
    stream, where = _selection(benchmark, wanted, space)
    for name in _named_here(benchmark, stream, strategy, wanted):
        report(f"clbinn: {space} runs {name}")
    _check(strategy, wanted)
    folder = Path(out) / benchmark.name / f"tune-{strategy.name}-{_search_hash(wanted, stream, strategy, seed)}"
    make_folder(folder)

    def average_accuracy(tried: StrategyRecipe) -> float:
        from clbinn.experiments.run import run

        path = run(stream, tried, seed, folder, device=device, data_root=data_root, download=download, progress=False)
        return float(json.loads((path / "summary.json").read_text())["average_accuracy"])

    with disk_errors(folder):
        study = _study(optuna, strategy.name, folder / "trials.log")
        _search(optuna, study, strategy, wanted, average_accuracy, trials, seed, report)
        complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        if not complete:
            raise RunError(f"none of {trials} trials came to its end; see {folder}")
        best = max(complete, key=lambda trial: trial.value)
        chosen = with_settings(strategy, _settings(best, wanted))
        told = f"{len(complete)} trials, selected by average accuracy ({best.value:.4f}, seed {seed}) on {where}"
        name = f"{strategy.name[: MAX_NAME - len(FOUND)]}{FOUND}"
        path = folder / f"{name}.yaml"
        replace_file(path, dump(chosen.model_copy(update={"name": name, "provenance": told})))
    return path


def _search(
    optuna: Any,
    study: Any,
    strategy: StrategyRecipe,
    space: Space,
    score: Callable[[StrategyRecipe], float],
    trials: int,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Go on until so many trials have ended. What is tried depends on the seed and on the trials before alone."""
    state = optuna.trial.TrialState
    while (done := len(study.get_trials(states=(state.COMPLETE, state.PRUNED)))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, "tune", done) % 2**32)
        trial = study.ask()
        settings = {key: _suggest(trial, key, choice) for key, choice in space.search.items()}
        told = _told(settings)
        try:
            value = score(with_settings(strategy, settings))
        except BusyError:
            raise
        except (RunError, UserError) as error:
            if isinstance(error.__cause__, OSError):  # a full disk is no bad setting
                raise
            if isinstance(error, UserError) and not study.get_trials(states=(state.COMPLETE,)):
                raise UserError(f"{error} (with {told})") from error  # likely a mistake that all trials would share
            report(str(error))
            study.tell(trial, state=state.PRUNED)
            result = "failed"
        else:
            study.tell(trial, value)
            result = f"{value:.4f}"
        report(f"trial {done + 1} of {trials}: {result} with {told}")


def first_tasks(benchmark: BenchmarkRecipe, count: int) -> BenchmarkRecipe:
    """The stream of the first tasks of a stream.

    Raises:
        UserError: The stream has fewer tasks, or is one of Avalanche's own benchmarks, which can't be cut.
    """
    tasks: Any = benchmark.tasks
    if isinstance(tasks, AvalancheTasks):
        raise UserError("tasks: a benchmark of Avalanche's own can't be cut to its first tasks; name a `stream`")
    there = len(tasks) if isinstance(tasks, list) else len(tasks.degrees) if isinstance(tasks, Rotate) else tasks.count
    if there is not None and there < count:
        raise UserError(f"tasks: {count} is more than the stream {benchmark.name} has, {there}")
    if isinstance(tasks, list):
        cut: Any = tasks[:count]
    elif isinstance(tasks, Rotate):
        cut = tasks.model_copy(update={"degrees": tasks.degrees[:count]})
    else:
        cut = tasks.model_copy(update={"count": count})
    return benchmark.model_copy(update={"tasks": cut})


def with_settings(strategy: StrategyRecipe, settings: dict[str, Any]) -> StrategyRecipe:
    """The recipe with other settings, by dotted name such as `options.lr`.

    Raises:
        RecipeError: A name or a value that a recipe can't have.
    """
    plain = copy.deepcopy(strategy.model_dump())
    for key, value in settings.items():
        *steps, last = key.split(".")
        part: Any = plain
        for step in steps:
            part = _entry(part, step)
        if isinstance(part, list) and _entry(part, last) is not None:
            part[int(last)] = value
        elif isinstance(part, dict):
            part[last] = value
        else:
            raise RecipeError(f"search: the recipe has no '{key}'")
    try:
        return StrategyRecipe.model_validate(plain)
    except ValidationError as error:
        raise_faults(recipe_faults(StrategyRecipe, error, Source(plain, {(): Position("search")})))


def _entry(part: Any, step: str) -> Any:
    """What a mapping or a list has under a name or an index; None where there is nothing."""
    if isinstance(part, list):
        return part[int(step)] if step.isdecimal() and int(step) < len(part) else None
    return part.get(step) if isinstance(part, dict) else None


def _read(path: Path) -> Space:
    source = yaml_source.read(path)
    try:
        return Space.model_validate(source.data)
    except ValidationError as error:
        raise_faults(recipe_faults(Space, error, source))


def _named_here(
    benchmark: BenchmarkRecipe, stream: BenchmarkRecipe, strategy: StrategyRecipe, space: Space
) -> list[str]:
    """The classes and functions that the file brings in: told before any is imported, as those of recipes are."""
    choices = [(key, value) for key, choice in space.search.items() if isinstance(choice, list) for value in choice]
    found = targets(stream) + [
        name for key, value in choices for name in targets(with_settings(strategy, {key: value}))
    ]
    known = targets(benchmark) + targets(strategy)
    return [name for name in dict.fromkeys(found) if name not in known]


def _check(strategy: StrategyRecipe, space: Space) -> None:
    """Each choice, and both ends of each range, before hours of trials come to it."""
    from clbinn.experiments.build import check_strategy

    for key, choice in space.search.items():
        for value in choice if isinstance(choice, list) else (choice.low, choice.high):
            check_strategy(with_settings(strategy, {key: value}))


def _study(optuna: Any, name: str, log: Path) -> Any:
    journal = optuna.storages.journal
    lock = journal.JournalFileSymlinkLock(str(log))
    lock.acquire()
    try:
        drop_unfinished_line(log)  # of a crash: Optuna would write on behind it
    finally:
        lock.release()
    try:
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(log), lock_obj=lock))
        return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    except (ValueError, KeyError) as error:
        raise UserError(f"{log} is damaged ({error}); move it away to search anew: finished runs are kept") from None


def _selection(benchmark: BenchmarkRecipe, space: Space, path: Path) -> tuple[BenchmarkRecipe, str]:
    """The stream that settings are selected on, and how it is named in the result."""
    own = differences(benchmark)
    if space.stream is not None and own:
        raise UserError(f"{path}: stream: is what settings are selected on, so this has no effect: {', '.join(own)}")
    stream = benchmark if space.stream is None else load_benchmark(space.stream)
    where = f"the stream {stream.name}" + (f" with {', '.join(own)}" if own else "")
    if space.tasks is not None:
        stream, where = first_tasks(stream, space.tasks), f"the first {space.tasks} tasks of {where}"
    return stream, where


def _search_hash(space: Space, stream: BenchmarkRecipe, strategy: StrategyRecipe, seed: int) -> str:
    """Eight hexadecimal digits: another search has another folder."""
    told = json.dumps([space.model_dump(), recipe_hash(stream, strategy), seed], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _suggest(trial: Any, key: str, choice: Range | list[Any]) -> Any:
    if isinstance(choice, list):  # by place, as Optuna keeps plain values only
        return choice[trial.suggest_categorical(key, list(range(len(choice))))]
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(key, choice.low, choice.high, log=choice.log)
    return trial.suggest_float(key, choice.low, choice.high, log=choice.log)


def _settings(trial: Any, space: Space) -> dict[str, Any]:
    """What was tried in a trial."""
    return {
        key: choice[trial.params[key]] if isinstance(choice, list) else trial.params[key]
        for key, choice in space.search.items()
    }


def _told(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError("tune needs Optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that fails is told by us
    return optuna
