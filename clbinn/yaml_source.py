"""YAML text as plain data with the place of every key and value, refusing what surprises people.

A recipe uses a small part of YAML: mappings, lists and scalars. Unquoted scalars are read as YAML 1.2 does, with
`1e-3` a number and `on` a word; what YAML 1.1 and 1.2 read as different numbers (`010`, `1:30`, `1_000`, `0x1F`) is
refused. So are tags, anchors, duplicate keys, deep nesting and large files: nothing here builds an object or explodes.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from clbinn.errors import RecipeError

__all__ = ["MAX_DEPTH", "Fault", "Position", "Source", "parse", "raise_faults", "read", "scalar", "spell"]

MAX_BYTES = 128 * 1024
MAX_DEPTH = 16
MAX_DIGITS = 18  # fits in 64 bits
MAX_FAULTS_SHOWN = 20

Place = tuple[str | int, ...]
"""Keys and list indices that lead from the top of a recipe to a value."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)")
_AMBIGUOUS = re.compile(
    r"[-+]?(0[0-9_]+(\.[0-9]*)?([eE][-+]?[0-9]+)?"  # 010: 8 or 10
    r"|0[xob][0-9a-fA-F_]+"
    r"|[0-9]+(:[0-5]?[0-9])+(\.[0-9_]*)?"  # 1:30: ninety or text
    r"|[0-9]+(_[0-9]+)+(\.[0-9_]*)?([eE][-+]?[0-9]+)?)"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Position(NamedTuple):
    """A place in a file, counted from 1; line 0 means the whole of it (an override)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Fault(NamedTuple):
    """One thing that is wrong."""

    position: Position
    place: Place
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.position), spell(self.place), self.message)))


@dataclass
class Source:
    """Plain data, with the positions of its values and of its keys by place."""

    data: Any = None
    values: dict[Place, Position] = field(default_factory=dict)
    keys: dict[Place, Position] = field(default_factory=dict)

    def position(self, place: Place, key: bool = False) -> Position:
        """Where a value (or its key) stands; of the nearest thing around it where it doesn't stand anywhere."""
        if key and place in self.keys:
            return self.keys[place]
        while place and place not in self.values:
            place = place[:-1]
        return self.values[place]

    def put(self, place: Place, other: "Source") -> None:
        """Replace the value at `place`, whose parent exists, by the whole of `other`."""
        parent = self.data
        for step in place[:-1]:
            parent = parent[step]
        parent[place[-1]] = other.data
        for positions, new in ((self.values, other.values), (self.keys, other.keys)):
            for old in [old for old in positions if old[: len(place)] == place]:
                del positions[old]
            positions.update({place + inner: position for inner, position in new.items()})
        self.keys[place] = other.keys.get((), other.values[()])

    def part(self, place: Place) -> "Source":
        """The value at `place` as a source of its own; its key's position is kept under ()."""
        data = self.data
        for step in place:
            data = data[step]
        size = len(place)
        return Source(
            data,
            {inner[size:]: position for inner, position in self.values.items() if inner[:size] == place},
            {inner[size:]: position for inner, position in self.keys.items() if inner[:size] == place},
        )


def spell(place: Place) -> str:
    """A place as one writes it in an override: `tasks.0.rotate`."""
    return ".".join(map(str, place))


def raise_faults(faults: Iterable[Fault]) -> NoReturn:
    """All faults in one error, a line each, in the order of the file.

    Raises:
        RecipeError: always.
    """
    lines = list(dict.fromkeys(str(fault) for fault in sorted(faults, key=lambda fault: fault.position)))
    more = len(lines) - MAX_FAULTS_SHOWN
    if more > 0:
        lines[MAX_FAULTS_SHOWN:] = [f"and {more} more"]
    raise RecipeError("\n".join(lines))


def read(path: Path) -> Source:
    """The source in a file of UTF-8 text.

    Raises:
        RecipeError: The file can't be read, is too large, or isn't the YAML that recipes use.
    """
    name = _display(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"{name}: can't be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES // 1024} KiB, the limit for a recipe")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise RecipeError(f"{Position(name, line, column)}: not UTF-8 text; save the file as UTF-8") from None
    return parse(text, name)


def parse(text: str, name: str, whole: bool = False) -> Source:
    """The source in a text; `whole` gives everything the one position `name` (an override).

    Raises:
        RecipeError: All that is wrong with it, with positions.
    """
    control = _CONTROL.search(text.replace("\r\n", "\n "))
    if control:
        start = control.start()
        position = Position(name, text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start))
        raise RecipeError(f"{position}: character {control[0]!r} has no place in a recipe; is this a text file?")
    reader = _Reader(text, name, whole)
    try:
        reader.document()
    except yaml.MarkedYAMLError as error:
        reader.fail(error.problem_mark or error.context_mark, _explain(error))
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:  # escapes such as "\UFFFFFFFF"
        reader.fail(None, f"not valid YAML: {str(error).splitlines()[0]}")
    if reader.faults:
        raise_faults(reader.faults)
    return reader.source


def scalar(text: str) -> Any:
    """The value of an unquoted scalar: number, true, false, nothing, or the text itself.

    Raises:
        ValueError: People or YAML versions disagree on what it means; says what to write instead.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text.lstrip("+-")) > MAX_DIGITS:
            raise ValueError(f"a whole number has at most {MAX_DIGITS} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{_shorten(text)} is too large for a number")
        return value
    if _INFINITY.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    if _NOT_A_NUMBER.fullmatch(text):
        raise ValueError("not a number has no meaning in a recipe")
    if _AMBIGUOUS.fullmatch(text):
        raise ValueError(
            f"{_shorten(text)} is read in two ways; write the number in plain digits, or put text into quotes"
        )
    return text


class _Reader:
    """Builds a source from PyYAML's events; collects faults, and stops at what can't be read past."""

    def __init__(self, text: str, name: str, whole: bool) -> None:
        self.name = name
        self.whole = whole
        self.source = Source()
        self.faults: list[Fault] = []
        self.events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)

    def document(self) -> None:
        """The one document of the stream."""
        next(self.events)  # stream start
        event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent):
            self.source.values[()] = self._position(None)
            return
        self.source.data = self._node(next(self.events), ())
        next(self.events)  # document end
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.fail(event.start_mark, "a second document begins here; a recipe is one")

    def fail(self, mark: Any, message: str) -> NoReturn:
        """Stop here."""
        raise_faults([*self.faults, Fault(self._position(mark), (), message)])

    def _note(self, fault: Fault) -> None:
        """Keep a fault and read on, unless there are too many to be told."""
        self.faults.append(fault)
        if len(self.faults) > 2 * MAX_FAULTS_SHOWN:
            raise_faults(self.faults)

    def _position(self, mark: Any) -> Position:
        if self.whole:
            return Position(self.name)
        return Position(self.name, mark.line + 1, mark.column + 1) if mark else Position(self.name, 1, 1)

    def _node(self, event: Any, place: Place) -> Any:
        position = self._position(event.start_mark)
        self.source.values[place] = position
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.fail(event.start_mark, "anchors (&) and aliases (*) are not used in recipes; write the value out")
        if event.tag is not None:
            self.fail(event.start_mark, f"tags such as {_shorten(event.tag)} are not used in recipes; remove it")
        if len(place) >= MAX_DEPTH:
            self.fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        return self._scalar(event, place, position)

    def _mapping(self, place: Place) -> dict[str, Any]:
        result: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self.fail(event.start_mark, "a key must be a word")
            key = event.value
            inner = (*place, key)
            position = self._position(event.start_mark)
            if _CONTROL.search(key) or event.tag is not None or event.anchor is not None:
                self.fail(event.start_mark, "a key must be a plain word")
            if key in result:
                first = self.source.keys[inner]
                self._note(Fault(position, inner, f"given twice, first in line {first.line}; keep one"))
            self.source.keys[inner] = position
            result[key] = self._node(next(self.events), inner)
        return result

    def _sequence(self, place: Place) -> list[Any]:
        result: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            result.append(self._node(event, (*place, len(result))))
        return result

    def _scalar(self, event: Any, place: Place, position: Position) -> Any:
        text: str = event.value
        if _CONTROL.search(text):
            self._note(Fault(position, place, "a control character stands in this text"))
        if event.style is not None:
            return text
        try:
            return scalar(text)
        except ValueError as error:
            self._note(Fault(position, place, str(error)))
            return None


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "can't be read"
    if "'\\t'" in problem:
        return "a tab can't indent YAML; use spaces"
    if "mapping values are not allowed" in problem:
        return "a ':' is not allowed here; check the indentation, or put the text into quotes"
    return f"not valid YAML: {problem}"


def _display(path: Path) -> str:
    """The path as a message shows it: short where it lies below the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (OSError, ValueError, RuntimeError):
        return str(path)


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
