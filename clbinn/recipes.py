"""Find, load, override, check and write recipes.

A recipe is named by its name in the catalogue or by the path of a YAML file. `extends: other` takes over another
recipe: mappings are merged key by key, everything else is replaced.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from clbinn import yaml_source
from clbinn.errors import RecipeError
from clbinn.recipe_faults import nearest, one_of, recipe_faults
from clbinn.schema import BenchmarkRecipe, StrategyRecipe
from clbinn.yaml_source import MAX_DEPTH, Fault, Place, Position, Source, raise_faults

__all__ = [
    "apply_override",
    "apply_overrides",
    "catalogue",
    "catalogue_folder",
    "dump",
    "in_catalogue",
    "kind_of",
    "load_benchmark",
    "load_strategy",
    "merge",
    "recipe_hash",
    "split_overrides",
    "targets",
]

Kind = Literal["strategies", "benchmarks"]
Recipe = TypeVar("Recipe", BenchmarkRecipe, StrategyRecipe)

SINGULAR: dict[Kind, str] = {"benchmarks": "benchmark", "strategies": "strategy"}
BENCHMARK_PREFIX = "benchmark."
OWN_FIELDS = ("name", "title", "provenance")  # say what this one recipe is: never taken over
CHOOSERS = ("kind", "dataset", "target")  # another choice here brings other neighbours: replace, don't merge
DEFAULTS: dict[Place, dict[str, str]] = {("model",): {"kind": "mlp"}}  # what a recipe that leaves it out has chosen


def load_benchmark(name_or_path: str | Path, overrides: Sequence[str] = ()) -> BenchmarkRecipe:
    """The task stream of that name or in that file.

    Args:
        name_or_path: A name of the catalogue, or the path of a .yaml or .yml file.
        overrides: `KEY=VALUE` with VALUE in YAML, e.g. `benchmark.tasks.count=10`; the prefix may be left out here.

    Raises:
        RecipeError: There is no such recipe, or something in it or in an override is wrong; tells all that is.
    """
    return _load(BenchmarkRecipe, "benchmarks", name_or_path, overrides, BENCHMARK_PREFIX)


def load_strategy(name_or_path: str | Path, overrides: Sequence[str] = ()) -> StrategyRecipe:
    """The strategy of that name or in that file.

    Args:
        name_or_path: A name of the catalogue, or the path of a .yaml or .yml file.
        overrides: `KEY=VALUE` with VALUE in YAML, e.g. `train.epochs=3`, `model.hidden=[200, 200]`.

    Raises:
        RecipeError: There is no such recipe, or something in it or in an override is wrong; tells all that is.
    """
    return _load(StrategyRecipe, "strategies", name_or_path, overrides)


def split_overrides(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Overrides of the benchmark (those that begin with `benchmark.`), and those of the strategies."""
    of_benchmark: list[str] = []
    of_strategy: list[str] = []
    for override in overrides:
        (of_benchmark if override.startswith(BENCHMARK_PREFIX) else of_strategy).append(override)
    return of_benchmark, of_strategy


def apply_overrides(source: Source, overrides: Iterable[str], prefix: str = "") -> None:
    """`apply_override` for each.

    Raises:
        RecipeError: Tells all that is wrong.
    """
    wrong: list[str] = []
    for override in overrides:
        try:
            apply_override(source, override, prefix)
        except RecipeError as error:
            wrong.append(str(error))
    if wrong:
        raise RecipeError("\n".join(wrong))


def apply_override(source: Source, override: str, prefix: str = "") -> None:
    """Put the value of `KEY=VALUE` where KEY, without the prefix, says; mappings on the way there are made.

    Raises:
        RecipeError: KEY leads nowhere, or VALUE isn't YAML.
    """
    position = Position(f"--set {override}")
    key, equals, text = override.partition("=")
    steps = key.strip().removeprefix(prefix).split(".")
    if not equals or not all(steps):
        raise_faults([Fault(position, (), "write KEY=VALUE, e.g. train.epochs=3 or benchmark.tasks.count=10")])
    if steps[0] == "extends":
        raise_faults([Fault(position, (), "what a recipe extends is said in its file; name the other recipe itself")])
    if len(steps) > MAX_DEPTH:
        raise_faults([Fault(position, (), f"nested deeper than {MAX_DEPTH} levels")])
    place: Place = ()
    data = source.data
    for step in steps:
        if isinstance(data, list):
            indices = [str(index) for index in range(len(data))]
            if step not in indices:
                raise_faults([Fault(position, place, f"expected an index below {len(data)}, not '{step}'")])
            place = (*place, int(step))
            data = data[int(step)]
        elif isinstance(data, dict):
            place = (*place, step)
            if len(place) < len(steps) and data.get(step) is None:
                source.put(place, Source({}, {(): position}))
            data = data.get(step)
        else:
            raise_faults([Fault(position, place, f"holds a plain value, and so has no '{step}'")])
    source.put(place, yaml_source.parse(text, str(position), whole=True))


def catalogue_folder(kind: Kind) -> Path:
    """The folder of shipped recipes: inside the installed package, or at the top of a checkout.

    Raises:
        RecipeError: There is neither.
    """
    package = Path(__file__).parent
    for folder in (package / "recipes_data" / kind, package.parent / kind):
        if any(folder.glob("*.yaml")):
            return folder
    raise RecipeError(f"the catalogue of {kind} is missing beside {package}; install clbinn again")


def catalogue(kind: Kind) -> dict[str, Path]:
    """Shipped recipes: name → file, in alphabetical order."""
    return {path.stem: path for path in sorted(catalogue_folder(kind).glob("*.yaml"))}


def in_catalogue(kind: Kind, name_or_path: str | Path) -> bool:
    """Whether this names a shipped recipe (the others may import code of strangers)."""
    path = _find(kind, name_or_path).resolve()
    return any(path == shipped.resolve() for shipped in catalogue(kind).values())


def kind_of(name_or_path: str | Path) -> Kind:
    """Whether a name or a file means a stream or a strategy.

    Raises:
        RecipeError: It is neither.
    """
    return _kind_of(str(name_or_path), None, 0)


def _kind_of(name: str, beside: Path | None, depth: int) -> Kind:
    if _is_path(name):
        path = _find("benchmarks", name, beside)
        data = yaml_source.read(path).data
        keys = set(data) if isinstance(data, dict) else set()
        if keys & {"tasks", "source", "scenario"}:
            return "benchmarks"
        base = data["extends"] if "extends" in keys and not keys & {"target", "train", "model", "optimizer"} else None
        return _kind_of(base, path.parent, depth + 1) if isinstance(base, str) and depth < MAX_DEPTH else "strategies"
    kinds: tuple[Kind, Kind] = ("benchmarks", "strategies")
    for kind in kinds:
        if name in catalogue(kind):
            return kind
    known = [known for kind in kinds for known in catalogue(kind)]
    raise RecipeError(f"unknown recipe '{name}' (`clbinn list` shows them all){nearest(name, known)}")


def targets(recipe: BenchmarkRecipe | StrategyRecipe) -> list[str]:
    """The classes and functions by name that a run of the recipe imports and calls."""
    if isinstance(recipe, BenchmarkRecipe):
        tasks = recipe.tasks if isinstance(recipe.tasks, list) else []
        sources = [recipe.source, *tasks]
        names = [source.dataset for source in sources if source is not None and ":" in source.dataset]
    else:
        parts = [recipe, recipe.optimizer, *recipe.plugins]
        names = [part.target for part in parts if part is not None]
        names += [recipe.model.kind] if ":" in recipe.model.kind else []
    return list(dict.fromkeys(names))


def dump(recipe: BenchmarkRecipe | StrategyRecipe) -> str:
    """The recipe as YAML, with all defaults written out; it loads back to an equal recipe."""
    return yaml.dump(_plain(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def recipe_hash(benchmark: BenchmarkRecipe, strategy: StrategyRecipe) -> str:
    """Eight hex digits that stand for all settings of a run: sha256 of both recipes as JSON with sorted keys.

    Titles and provenance don't count: they change no number.
    """
    settings = {
        "benchmark": benchmark.model_dump(mode="json", exclude={"title"}),
        "strategy": strategy.model_dump(mode="json", exclude={"title", "provenance"}),
    }
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _load(model: type[Recipe], kind: Kind, name: str | Path, overrides: Sequence[str], prefix: str = "") -> Recipe:
    source = _resolve(kind, _find(kind, name), ())
    apply_overrides(source, overrides, prefix)
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise_faults(recipe_faults(model, error, source))


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _find(kind: Kind, name_or_path: str | Path, beside: Path | None = None) -> Path:
    """The file that a name or path means; a relative path starts at `beside`, else at the working directory."""
    name = str(name_or_path)
    if _is_path(name):
        try:
            path = (beside or Path()) / Path(name).expanduser()
            found = path.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # no such home, no permission, far too long
            raise RecipeError(f"{name}: can't be read: {error}") from None
        if not found:
            raise RecipeError(f"{name}: there is no such file")
        return path
    shipped = catalogue(kind)
    if name in shipped:
        return shipped[name]
    what = SINGULAR[kind]
    for other in SINGULAR:
        if name in catalogue(other):
            raise RecipeError(f"unknown {what} '{name}': it is the name of a {SINGULAR[other]}")
    own = "a recipe of your own is given by its path, ending in .yaml"
    raise RecipeError(f"unknown {what} '{name}' ({own}){one_of(name, shipped)}")


def _resolve(kind: Kind, path: Path, extended_by: tuple[Path, ...]) -> Source:
    """The file's content on top of what it extends."""
    source = yaml_source.read(path)
    part = SINGULAR[kind]
    if isinstance(source.data, dict) and isinstance(source.data.get(part), dict):
        source = source.part((part,))  # recipe.yaml of a run folder holds both
    if not isinstance(source.data, dict):
        what = "is empty" if source.data is None else "is not a mapping"
        raise_faults([Fault(source.values[()], (), f"the recipe {what}; it begins with `name: …`")])
    if "extends" not in source.data:
        return source
    name = source.data.pop("extends")
    where = source.values[("extends",)]
    chain = (*extended_by, path.resolve())
    if not isinstance(name, str):
        raise_faults([Fault(where, ("extends",), "expected the name or the path of a recipe")])
    try:
        base_path = _find(kind, name, path.parent)
    except RecipeError as error:
        raise_faults([Fault(where, ("extends",), str(error))])
    if base_path.resolve() in chain:
        raise_faults([Fault(where, ("extends",), "the recipe extends itself in a circle")])
    if len(chain) > MAX_DEPTH:
        raise_faults([Fault(where, ("extends",), f"recipes extend each other over more than {MAX_DEPTH} files")])
    base = _resolve(kind, base_path, chain)
    for field in OWN_FIELDS:
        base.data.pop(field, None)
    merge(base, source)
    return base


def merge(base: Source, own: Source, place: Place = ()) -> None:
    """Lay the mapping at `place` of `own` over the one of `base`, key by key; positions come along."""
    base.values[place] = own.values[place]
    ours, theirs = own.part(place).data, base.part(place).data
    for key, value in ours.items():
        old = theirs.get(key)
        inner = (*place, key)
        if isinstance(value, dict) and isinstance(old, dict) and not _chooses_anew(old, value, DEFAULTS.get(inner, {})):
            merge(base, own, inner)
        else:
            base.put(inner, own.part(inner))


def _chooses_anew(old: dict[str, Any], new: dict[str, Any], default: dict[str, str]) -> bool:
    old = default | old
    return any(word in new and word in old and new[word] != old[word] for word in CHOOSERS)


def _plain(recipe: BaseModel) -> dict[str, Any]:
    """Fields as plain data, without those that say nothing (their default is nothing, too)."""
    result: dict[str, Any] = {}
    for key in type(recipe).model_fields:
        value = getattr(recipe, key)
        if value is None or value in ("", [], {}):
            continue
        if isinstance(value, list):
            result[key] = [_plain(item) if isinstance(item, BaseModel) else item for item in value]
        else:
            result[key] = _plain(value) if isinstance(value, BaseModel) else value
    return result | (recipe.model_extra or {})


class _Dumper(yaml.SafeDumper):
    """Quotes the words that our reading of YAML, unlike PyYAML's, takes for something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Anchors are not used in recipes."""
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        """Text as it stands where that reads back as the same text, else in quotes."""
        try:
            plain = yaml_source.scalar(data) == data
        except ValueError:
            plain = False
        return self.represent_scalar("tag:yaml.org,2002:str", data, None if plain else '"')

    def represent_number(self, data: float) -> yaml.ScalarNode:
        """The shortest digits that give the same number, always with a point."""
        text = repr(data) if math.isfinite(data) else (".inf" if data > 0 else "-.inf")
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(float, _Dumper.represent_number)
