"""The appendix's schedules: they move one value of every parameter group (`lr`, Bop's `adaptivity`, …).

Call `step()` once an epoch (or once an iteration, where a table counts those), after the optimizer's steps, as with
torch's own schedulers. Unlike those, a schedule here is not tied to the name `lr`. Each value is a closed form of the
value at the start and of the number of calls, so there is nothing to accumulate and a resume is exact.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch.optim import Optimizer

from clbinn.checks import check_at_least, check_count, check_positive

__all__ = ["CosineDecay", "ExponentialDecay", "Schedule", "StepDecay", "cosine_decay"]


def cosine_decay(start: float, end: float, progress: float) -> float:
    """α_T + ½ (α_0 - α_T) (1 + cos π p): half a cosine from start to end, p in [0, 1] (Tables 9 and 13)."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class Schedule:
    """Base: `value(start, t)` is the value after t calls of `step()`.

    Args:
        optimizer: Its parameter groups hold the value.
        key: Name of the value in the groups.

    Raises:
        ValueError: No such value in a group.
    """

    def __init__(self, optimizer: Optimizer, key: str = "lr") -> None:
        for group in optimizer.param_groups:
            if key not in group:
                raise ValueError(f"{type(optimizer).__name__} has no {key!r} to schedule; it has {sorted(group)}")
        self.optimizer = optimizer
        self.key = key
        self.starts = [float(group[key]) for group in optimizer.param_groups]
        self.count = 0

    def value(self, start: float, t: int) -> float:
        """The value after t calls, from its value at the start."""
        raise NotImplementedError

    def step(self) -> None:
        """Move on by one; a group that was added since starts at the value that it was given."""
        self.starts += [float(group[self.key]) for group in self.optimizer.param_groups[len(self.starts) :]]
        self.count += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"starts": list(self.starts), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; sets the value in the groups.

        Raises:
            ValueError: It is of another number of groups.
        """
        if len(state["starts"]) != len(self.optimizer.param_groups):
            groups = len(self.optimizer.param_groups)
            raise ValueError(f"the schedule was saved for {len(state['starts'])} parameter groups, there are {groups}")
        self.starts, self.count = [float(start) for start in state["starts"]], int(state["count"])
        self._apply()

    def _apply(self) -> None:
        for group, start in zip(self.optimizer.param_groups, self.starts, strict=True):
            group[self.key] = self.value(start, self.count)


class CosineDecay(Schedule):
    r"""Half a cosine from the start to `end` in T calls (Tables 9 and 13).

    .. math:: α_t = α_T + ½ (α_0 - α_T) (1 + \cos(π t / T))

    Args:
        optimizer: As in `Schedule`.
        total: T, at least 1; the value stays at `end` afterwards.
        end: α_T ≥ 0.
        key: As in `Schedule`.
    """

    def __init__(self, optimizer: Optimizer, total: int, end: float = 1e-16, key: str = "lr") -> None:
        super().__init__(optimizer, key)
        check_at_least("end", end, 0)
        check_count("total", total, 1)
        self.total, self.end = int(total), end

    def value(self, start: float, t: int) -> float:
        """See `Schedule.value`."""
        return self.end if t >= self.total else cosine_decay(start, self.end, t / self.total)


class ExponentialDecay(Schedule):
    r"""Geometric from the start to `end` in T calls (Eq. 27, Table 4).

    .. math:: α_{t+1} = α_t (α_T / α_0)^{1/T}

    The appendix prints the exponent as -T, which would grow without bound; 1/T is what ends at α_T.

    Args:
        optimizer: As in `Schedule`.
        total: T, at least 1; the value stays at `end` afterwards.
        end: α_T, above 0.
        key: As in `Schedule`.
    """

    def __init__(self, optimizer: Optimizer, total: int, end: float, key: str = "lr") -> None:
        super().__init__(optimizer, key)
        check_at_least("end", end, 0)
        check_count("total", total, 1)
        self.total, self.end = int(total), end
        for start in self.starts:
            self.value(start, 0)

    def value(self, start: float, t: int) -> float:
        """See `Schedule.value`."""
        if not min(start, self.end) > 0:
            raise ValueError(
                f"an exponential decay needs {self.key} > 0 at the start and at the end; they are {start}, {self.end}"
            )
        return self.end if t >= self.total else start * (self.end / start) ** (t / self.total)


class StepDecay(Schedule):
    """Times `factor` every `every` calls, or at the calls listed (Tables 3 and 9).

    Args:
        optimizer: As in `Schedule`.
        factor: Above 0.
        every: An interval in calls (Bop: 1 or 100 epochs; PMF: 7,000 iterations), or the calls themselves, as
            `[1500, 2500]`.
        key: As in `Schedule`.
    """

    def __init__(self, optimizer: Optimizer, factor: float, every: int | Sequence[int], key: str = "lr") -> None:
        super().__init__(optimizer, key)
        if not isinstance(every, Iterable):
            check_count("every", every, 1)
        check_positive("factor", factor)
        self.factor, self.every = factor, sorted(every) if isinstance(every, Iterable) else int(every)

    def value(self, start: float, t: int) -> float:
        """See `Schedule.value`."""
        drops = t // self.every if isinstance(self.every, int) else sum(t >= call for call in self.every)
        return float(start * self.factor**drops)
