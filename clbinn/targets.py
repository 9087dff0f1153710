"""The classes and functions that recipes name: import them, and check options against their signatures."""

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from clbinn.errors import RecipeError
from clbinn.recipe_faults import nearest, one_of

__all__ = ["check_options", "import_target"]

PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}


def import_target(name: str, where: str = "target") -> Any:
    """The object that `package.module.Class` or `package.module:callable` names; only what is installed is imported.

    Raises:
        RecipeError: There is no such module or no such name in it, or the module can't be imported.
    """
    module_name, _, attribute = name.rpartition(":" if ":" in name else ".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise RecipeError(f"{where}: '{name}' needs the module '{error.name}', which is not installed") from None
        hint = "is it installed, or its folder in PYTHONPATH?"
        raise RecipeError(f"{where}: there is no module '{error.name}' for '{name}'; {hint}") from None
    except Exception as error:  # a module of the user's may fail in any way
        raise RecipeError(f"{where}: '{name}' can't be imported: {type(error).__name__}: {error}") from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        near = nearest(attribute, getattr(module, "__all__", dir(module)))
        raise RecipeError(f"{where}: '{module_name}' has no '{attribute}'{near}") from None
    if not callable(found):
        raise RecipeError(f"{where}: '{name}' is a {type(found).__name__}, not a class or a function")
    return found


def check_options(
    target: Callable[..., Any],
    options: Mapping[str, Any],
    where: str = "options",
    given: Collection[str] = (),
) -> None:
    """Check keyword arguments before the call: each is known, plainly typed ones have that type, none is missing.

    Args:
        target: A class or a function; what `**kwargs` of a class passes on is looked up in its base classes.
        options: What the recipe says, by argument.
        where: The place in the recipe, for the message.
        given: Arguments that the caller passes itself, so that the recipe can't.

    Raises:
        RecipeError: All the faults, a line each.
    """
    parameters, open_ended = _parameters(target)
    name = getattr(target, "__qualname__", repr(target))
    faults = []
    for option, value in options.items():
        if option in given:
            faults.append(f"{where}.{option}: is set elsewhere in the recipe (model, train) or by the run")
        elif option in parameters:
            expected = _expected(parameters[option], value)
            if expected:
                faults.append(f"{where}.{option}: {name} expects {expected}, not {value!r}")
        elif not open_ended:
            known = sorted(set(parameters) - set(given))
            faults.append(f"{where}.{option}: {name} has no such option{one_of(option, known)}")
    missing = [
        word
        for word, parameter in parameters.items()
        if parameter.default is parameter.empty and word not in options and word not in given
    ]
    faults += [f"{where}: {name} needs '{word}'" for word in missing]
    if faults:
        raise RecipeError("\n".join(faults))


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Arguments that can be given by name, with their types resolved, and whether any other is taken as well."""
    found: dict[str, inspect.Parameter] = {}
    for depth, function in enumerate(_functions(target)):
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # written in C
            return found, True
        hints = _hints(function)
        passes_on = False
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != "self":
                parameter = parameter.replace(annotation=hints.get(name, parameter.annotation))
                if depth and parameter.default is parameter.empty:
                    parameter = parameter.replace(default=None)  # the subclass may fill it in itself
                found.setdefault(name, parameter)
        if not passes_on:
            return found, False
    drops_unknown = (getattr(function, "__module__", None) or "").startswith("avalanche.")  # its last class does
    return found, not drops_unknown


def _functions(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The function itself; for a class, the constructors that one after the other get the keyword arguments."""
    if not isinstance(target, type):
        yield target
        return
    for cls in target.__mro__[:-1]:
        if "__init__" in vars(cls) and not vars(cls).get("_is_protocol", False):
            yield vars(cls)["__init__"]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # annotations of others may name what exists for type checkers only
        return {}


def _expected(parameter: inspect.Parameter, value: Any) -> str | None:
    """What the parameter expects, in words, if it is sure that the value isn't that."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        if isinstance(parameter.default, bool) and not isinstance(value, bool | None):
            return PLAIN_TYPES[bool]
        return None
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = typing.get_args(annotation) if union else (annotation,)
    words = []
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            choices = typing.get_args(member)
            if value in choices:
                return None
            words.append(" or ".join(map(repr, choices)))
        elif member in PLAIN_TYPES:
            if _is_a(value, member):
                return None
            words.append(PLAIN_TYPES[member])
        elif typing.get_origin(member) in (list, tuple, Sequence):
            item, *others = typing.get_args(member)
            item = Any if set(others) - {item, ...} else item  # a pair of two kinds: we don't look into it
            if isinstance(value, list | tuple) and (item not in PLAIN_TYPES or all(_is_a(one, item) for one in value)):
                return None
            words.append("a list" + (f", each {PLAIN_TYPES[item]}" if item in PLAIN_TYPES else ""))
        else:
            return None  # a type that YAML can't spell, or one that we don't look into
    return ", or ".join(words)


def _is_a(value: Any, plain: type) -> bool:
    if isinstance(value, bool):
        return plain is bool
    return isinstance(value, int | float) if plain is float else isinstance(value, plain)
