"""A torch optimizer whose state is flat tensors: it follows its parameters, and is saved and loaded.

Parameters can move to another device, be replaced, grow by some rows, come and go; what was learned about them stays
with them.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clbinn.optim._flat import FlatState, State
from clbinn.optim._noise import Noise

__all__ = ["FlatOptimizer"]


class FlatOptimizer(Optimizer):
    """Base of `BinaryOptimizer`, with its arguments and errors: the parameters, the state, the random stream."""

    _KEPT: ClassVar[set[str]] = {"noise", "_flat", "_sampling"}
    _by_parameter: ClassVar[bool] = False  # a subclass needs to know which parameter a piece is of
    _optional: ClassVar[set[str]] = set()  # parts of the state that come with an option

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], seed: int | None = None) -> None:
        self.noise = Noise(int(torch.randint(2**62, ())) if seed is None else seed)
        self._flat: list[FlatState] = []
        self._sampling = False
        super().__init__(params, defaults)
        self._synchronise()

    def parameters(self) -> list[Tensor]:
        """All parameters in order, over all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def set_parameters(self, params: Sequence[Tensor], renamed: Mapping[Any, Any] | None = None) -> None:
        """Make these the parameters, keeping the state of those already known.

        Args:
            params: The parameters from now on. Those not known yet start fresh, in the first group; the others stay in
                theirs.
            renamed: New parameter → the old one that it replaces. Where both have an entry, the state is carried
                over (a classifier that grew by some rows keeps what its old rows learned).
        """
        renamed = renamed or {}
        successor = {old: new for new, old in renamed.items()}
        wanted = {id(p) for p in params}
        seen: set[int] = set()
        homes = {id(successor.get(p, p)): index for index, flat in enumerate(self._flat) for p in flat.params}
        found = [(index, p) for index, group in enumerate(self.param_groups) for p in group["params"]]
        for group in self.param_groups:
            group["params"] = []
        for index, p in [*((index, successor.get(p, p)) for index, p in found), *((0, p) for p in params)]:
            if id(p) in wanted - seen:
                seen.add(id(p))
                self.param_groups[homes.get(id(p), index)]["params"].append(p)
        self._synchronise(renamed)
        self.restore()

    # --- state on disk ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: one entry per parameter, the groups, the random stream."""
        self._synchronise()
        self.state.clear()  # what Avalanche put there at the start of a task; ours is elsewhere
        packed = super().state_dict()
        packed["state"] = {
            index: {name: view.clone() for name, view in entry.items()}
            for index, entry in enumerate(entry for flat in self._flat for entry in flat.entries())
        }
        packed["noise"] = self.noise.state_dict()
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: It belongs to other parameters, or to another kind of optimizer. Nothing was changed then.
        """
        if "noise" not in state_dict:
            raise ValueError(f"the state of another kind of optimizer can't be loaded into {type(self).__name__}")
        self._synchronise()
        state_dict = dict(state_dict)
        entries, noise = state_dict.pop("state"), state_dict.pop("noise")
        self._check_fit(entries)
        self.noise.check_state_dict(noise)
        super().load_state_dict({**state_dict, "state": {}})
        self.noise.load_state_dict(noise)
        index = 0
        for flat in self._flat:
            flat.keep_parts(self._optional, self._optional & entries.get(index, {}).keys())
            for mine in flat.entries():
                given = self._whole(entries[index])
                for name, view in mine.items():
                    view.copy_(given[name]) if name in given else view.zero_()
                index += 1
            flat.clear_samples()
        self.restore()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with checks; they are ±1 at once."""
        if self._sampling:
            raise RuntimeError("add_param_group() inside sampled_params(): leave the block first")
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else params
        if isinstance(params, set):
            raise TypeError("parameters need an order: give a list, not a set")
        params = [p[1] if isinstance(p, tuple) else p for p in params]  # named parameters
        self._check([p for p in params if isinstance(p, Tensor)])
        _check_devices([p for p in [*self.parameters(), *params] if isinstance(p, Tensor)])
        common = inspect.signature(type(self)).parameters.keys() - self.defaults.keys() - {"params"}
        if unknown := sorted(common & param_group.keys()):
            raise ValueError(
                f"{', '.join(unknown)} can't be given for one group of {type(self).__name__}; "
                f"its groups have {', '.join(sorted(self.defaults))}"
            )
        super().add_param_group({**param_group, "params": params})
        try:
            self._check_group(self.param_groups[-1])
        except BaseException:
            self.param_groups.pop()
            raise
        if self._flat:  # not while the optimizer is made
            self._synchronise()

    # --- for subclasses --------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Put the weights that predict into the module."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option out of range."""

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        raise NotImplementedError

    def _whole(self, entry: State) -> State:
        """The state of a parameter with the optional parts that follow from what it has."""
        return entry

    # --- inner ------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which torch's optimizers make without what they don't know."""
        own = {name: value for name, value in vars(self).items() if name in self._KEPT}
        return {**super().__getstate__(), **own}

    def _groups(self) -> list[tuple[dict[str, Any], FlatState]]:
        """The groups that have parameters, each with its state."""
        return [(group, flat) for group, flat in zip(self.param_groups, self._flat, strict=True) if flat.params]

    def _synchronise(self, renamed: Mapping[Any, Any] | None = None) -> None:
        """Follow the parameters: new ones start fresh, moved ones take their state along, the rest keep theirs."""
        if not renamed and self._is_current():
            return
        _check_devices(self.parameters())
        known = {p: entry for flat in self._flat for p, entry in zip(flat.params, flat.entries(), strict=True)}
        self._flat = [self._fresh(group) for group in self.param_groups]
        for flat in self._flat:
            before = [known.get(p) or known.get((renamed or {}).get(p, p)) or {} for p in flat.params]
            parts = {name for entry in before for name in entry} | flat.tensors.keys()
            flat.keep_parts(self._optional, self._optional & parts)
            for old, entry in zip(before, flat.entries(), strict=True):
                _carry_over(self._whole(old), entry)
        if not self._sampling:
            self.restore()

    def _is_current(self) -> bool:
        """Whether the state is that of the groups' parameters, where these are."""
        return len(self._flat) == len(self.param_groups) and all(
            flat.holds(group["params"]) and _in_place(flat)
            for group, flat in zip(self.param_groups, self._flat, strict=True)
        )

    def _fresh(self, group: dict[str, Any]) -> FlatState:
        """The state of a group as at its start."""
        flat = FlatState(group["params"], self._by_parameter)
        self._check(flat.params)
        if flat.params:
            self.noise.to(flat.device)
            flat.tensors = self._start(group, flat)
        return flat

    def _check_fit(self, entries: Mapping[int, State]) -> None:
        """Raise ValueError for a state on disk that is not of these parameters."""
        index = 0
        for flat in self._flat:
            names = set(flat.tensors) - self._optional
            for p in flat.params:
                given = entries.get(index, {})
                if set(given) - self._optional != names or any(value.shape != p.shape for value in given.values()):
                    raise ValueError(f"the state does not fit parameter {index} of shape {tuple(p.shape)}")
                index += 1

    @staticmethod
    def _check(params: Sequence[Tensor]) -> None:
        """Raise for parameters that can't be binary together."""
        if len({id(p) for p in params}) != len(params):
            raise ValueError("a parameter is given twice: hand over each one once")
        kinds = {str(p.dtype).removeprefix("torch.") for p in params}
        if not kinds <= {"float32", "float64"}:
            raise TypeError(
                f"binary weights are kept in float32 or float64, got {sorted(kinds)}: use autocast for half"
            )
        if len(kinds) > 1:
            raise TypeError(
                f"parameters of one group must have one type, got {sorted(kinds)}: call .float() on the module"
            )


def _check_devices(params: Sequence[Tensor]) -> None:
    """Raise for parameters on several devices: the random stream serves one."""
    if len(devices := {str(p.device) for p in params}) > 1:
        raise ValueError(f"parameters on {' and '.join(sorted(devices))}: make one optimizer for each device")


def _carry_over(old: State, new: State) -> None:
    """Put what was learned in its place; of a parameter that grew, the rows that were there."""
    for name, view in new.items():
        if name in old:
            overlap = tuple(slice(0, min(a, b)) for a, b in zip(view.shape, old[name].shape, strict=True))
            view[overlap] = old[name][overlap].to(view.device)


def _in_place(flat: FlatState) -> bool:
    """Whether the state is where the parameters are, and of their type and size."""
    flat.check_sizes()
    tensor = next(iter(flat.tensors.values()), None)
    if tensor is None:
        return True
    if tensor.dtype != flat.dtype:
        raise TypeError(
            f"the parameters became {flat.dtype} after the optimizer was made for {tensor.dtype}: "
            "convert the module first, then make the optimizer"
        )
    return tensor.device == flat.device


def mean_loss(losses: Sequence[Any]) -> Any:
    """The mean of what the runs of a closure returned, or None.

    Raises:
        TypeError: It is not a loss each time, nor None each time.
    """
    if all(loss is None for loss in losses):
        return None
    if not all(isinstance(loss, Tensor | int | float) for loss in losses):
        told = ", ".join(sorted({type(loss).__name__ for loss in losses}))
        raise TypeError(f"a closure returns the loss, or None each time; it gave {told}")
    return sum(losses) / len(losses)
