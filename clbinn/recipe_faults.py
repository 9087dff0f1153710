"""Pydantic's errors as sentences for people who write YAML."""

import difflib
import re
import typing
from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clbinn import schema
from clbinn.yaml_source import Fault, Place, Source

__all__ = ["nearest", "one_of", "recipe_faults"]

PATTERNS = {
    schema.NAME: "expected small letters, digits and underscores",
    schema.TARGET: "expected an importable name such as `package.module.Class`",
    schema.KIND: "expected the name of a network, or `package.module:callable`",
}

EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list, as in [1, 2]",
    "dict_type": "a mapping, as in {key: value}",
    "model_type": "a mapping, as in {key: value}",
    "model_attributes_type": "a mapping, as in {key: value}",
}

BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
}


def recipe_faults(model: type[BaseModel], error: ValidationError, source: Source) -> list[Fault]:
    """Each of pydantic's errors with the position in the YAML and a message without its jargon."""
    return [_fault(model, details, source) for details in error.errors(include_url=False)]


def nearest(word: str, choices: Collection[str]) -> str:
    """`; did you mean 'x'?` where one of the choices is near, else nothing."""
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[near[0]]}'?" if near else ""


def one_of(word: str, choices: Collection[str]) -> str:
    """`; did you mean 'x'?` where one of the choices is near, else all of them."""
    return nearest(word, choices) or (f"; expected {_or(choices)}" if choices else "; none is known")


def _fault(model: type[BaseModel], details: ErrorDetails, source: Source) -> Fault:
    kind, value = details["type"], details["input"]
    facts = details.get("ctx", {})
    loc = details["loc"]
    place = _place(source.data, loc)
    if kind == "extra_forbidden":
        word = str(loc[-1])
        known = sorted(set(_fields(model, loc[:-1])))
        return Fault(source.position(place, key=True), place, f"unknown key{one_of(word, known)}")
    if kind == "missing":
        return Fault(source.position(place[:-1]), place[:-1], f"needs '{place[-1]}'")
    if kind.startswith("union_tag"):
        place, message = _task_kind(place, value)
        return Fault(source.position(place), place, message)
    return Fault(source.position(place), place, _message(kind, details["msg"], facts, value))


def _message(kind: str, text: str, facts: dict[str, Any], value: Any) -> str:
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", facts["expected"])
        return f"{_show(value)} is not known here{one_of(str(value), choices)}"
    if kind == "unknown_dataset":
        own = "your own is `package.module:callable`"
        return f"{_show(value)} is not a dataset ({own}){one_of(value, schema.DATASETS)}"
    if kind == "recipe":
        return text
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}, not {_show(value)}"
    if kind in BOUNDS:
        return f"{BOUNDS[kind].format(**facts)}, not {_show(value)}"
    if kind == "string_pattern_mismatch":
        return f"{PATTERNS[facts['pattern']]}, not {_show(value)}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "string_too_long":
        return f"longer than {facts['max_length']} characters"
    return text[0].lower() + text[1:]


def _task_kind(place: Place, tasks: Any) -> tuple[Place, str]:
    kinds = schema.TASK_KINDS
    if not isinstance(tasks, dict):
        return place, f"expected a mapping with a 'kind', or a list of tasks, not {_show(tasks)}"
    if "kind" not in tasks:
        return place, f"needs 'kind': {_or(kinds)}"
    kind = tasks["kind"]
    return (*place, "kind"), f"{_show(kind)} is not a kind of tasks{one_of(str(kind), kinds)}"


def _place(data: Any, loc: Place) -> Place:
    """Pydantic's location without the tags of unions, which stand nowhere in the data."""
    place: Place = ()
    for number, step in enumerate(loc):
        inside = (isinstance(data, dict) and step in data) or (
            isinstance(data, list) and isinstance(step, int) and step < len(data)
        )
        if inside:
            data = data[step]
        elif _is_tag(step) or number < len(loc) - 1:
            continue
        place = (*place, step)
    return place


def _is_tag(step: str | int) -> bool:
    return isinstance(step, str) and step.startswith("<")


def _fields(model: type[BaseModel], loc: Place) -> Iterator[str]:
    """The keys that may stand at a location of a model."""
    found = [model]
    for step in loc:
        if isinstance(step, int):
            continue
        if _is_tag(step):
            found = [inner for inner in found if _tag(inner) == step]
        else:
            found = [inner for outer in found if step in outer.model_fields for inner in _models(outer, step)]
    for inner in found:
        yield from inner.model_fields
    if not loc:
        yield "extends"


def _models(model: type[BaseModel], field: str) -> Iterator[type[BaseModel]]:
    pending: list[Any] = [model.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and not typing.get_args(annotation):
            if issubclass(annotation, BaseModel):
                yield annotation
        else:
            pending.extend(typing.get_args(annotation))


def _tag(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return f"<{typing.get_args(kind.annotation)[0]}>" if kind else "<list>"


def _or(words: Collection[str]) -> str:
    *first, last = (f"'{word}'" for word in words)
    return f"{', '.join(first)} or {last}" if first else last


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
