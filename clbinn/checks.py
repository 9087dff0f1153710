"""Options out of range, said by name."""

from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from torch import Tensor

__all__ = ["check_at_least", "check_between", "check_choice", "check_count", "check_positive"]


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless the value is a finite number above 0."""
    if not (_is_number(value) and 0 < value < float("inf")):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


def check_at_least(name: str, value: Any, low: float) -> None:
    """Raise ValueError unless the value is a finite number of at least `low`."""
    if not (_is_number(value) and low <= value < float("inf")):
        raise ValueError(f"{name} must be finite and at least {low}, got {value!r}")


def check_between(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError unless the value is a number with low <= value < high."""
    if not (_is_number(value) and low <= value < high):
        raise ValueError(f"{name} must be in [{low}, {high}), got {value!r}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_count(name: str, value: Any, low: int) -> None:
    """Raise ValueError unless the value is a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < low:
        raise ValueError(f"{name} must be at least {low} and a whole number, got {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | Tensor)
