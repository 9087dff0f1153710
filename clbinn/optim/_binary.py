"""What all binary optimizers share: the weights that train, the weights that predict, and the checks.

A binary optimizer keeps something real behind every weight (a natural parameter, a latent weight, a running average).
The module itself holds the *prediction weights*, exactly ±1, at all times except inside `sampled_params()`, where it
holds the *training weights* that the gradient is taken at. A subclass says what these are, for some weights at a time
(a `Piece`, see `clbinn.optim._flat`):

    _check_group(group)                 raise ValueError for an option out of range
    _start(group, flat)                 make the state of a group's parameters: flat tensors by name
    _training_weights(group, piece)     fill `piece.weights` with what `sampled_params()` puts into the module;
                                        not needed with `_trains_with_signs`
    _collect(group, piece)              turn the gradient of one sample, `piece.gradient`, into what is averaged
    _update(group, piece)               the step, from the average over the samples in `piece.gradient`;
                                        `_begin_update` and `_end_update` are called once around the pieces
    _prediction_weights(group, piece)   fill `piece.weights` with ±1
    _draw(group, flat, noise)           one draw of ±1, for methods with a posterior
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from clbinn.optim._flat import FlatState, Piece, State
from clbinn.optim._noise import Noise

__all__ = ["BinaryOptimizer"]


class BinaryOptimizer(Optimizer):
    """Base of the optimizers whose modules predict with weights in {-1, +1}.

    Args:
        params: Parameters or parameter groups, all float32 or all float64, as for any torch optimizer.
        defaults: Options of a group.
        seed: Seed of the optimizer's own random numbers; None takes one from torch's global generator.

    Raises:
        ValueError: No parameters, a parameter given twice, or an option out of range.
        TypeError: Parameters of half precision or of mixed types.
    """

    _KEPT: ClassVar[set[str]] = {"noise", "_flat", "_sampling", "_held"}
    _trains_with_signs: ClassVar[bool] = False  # the training weights are the prediction weights
    _by_parameter: ClassVar[bool] = False  # a subclass needs to know which parameter a piece is of
    _optional: ClassVar[set[str]] = set()  # parts of the state that come with an option
    _step_supports_amp_scaling = True  # asks torch's GradScaler to tell, so that step() can refuse it

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], seed: int | None = None) -> None:
        self.noise = Noise(int(torch.randint(2**62, ())) if seed is None else seed)
        self._flat: list[FlatState] = []
        self._sampling = False
        self._held: Sequence[Tensor] | None = None
        super().__init__(params, defaults)
        self._synchronise()

    # --- the part that a user calls -------------------------------------------------------------------------------

    @contextmanager
    def sampled_params(self) -> Iterator[None]:
        """Put the training weights into the module; on leaving, take the gradients and put back the ±1.

        Several blocks before one `step()` are averaged. After an exception inside the block its gradients are dropped.
        What the block finds in the module is to stay there until the gradients were taken.

        Raises:
            RuntimeError: The block is entered inside another one.
        """
        with self._sample():
            yield

    def open_sample(self) -> None:
        """Enter `sampled_params()`, for loops that can't use a with block."""
        if self._sampling:
            raise RuntimeError("sampled_params() is already open: blocks can't be nested")
        self._synchronise()
        try:
            with torch.no_grad():
                for group, flat in self._groups():
                    for p in flat.params:
                        p.grad = None
                    self._train_with(group, flat)
        except BaseException:
            self.restore()
            raise
        self._sampling = True

    @property
    def finite(self) -> bool:
        """Whether all that was learned is."""
        return all(bool(tensor.sum().isfinite()) for flat in self._flat for tensor in flat.tensors.values())

    @property
    def sampling(self) -> bool:
        """Whether a `sampled_params()` block is open."""
        return self._sampling

    def close_sample(self, restore: bool = True) -> None:
        """Leave `sampled_params()` in order: collect this sample's gradients.

        Args:
            restore: Whether to put the ±1 back at once, rather than leave it to a `step()` that follows directly.
        """
        if not self._sampling:
            raise RuntimeError("no sampled_params() block is open")
        try:
            with torch.no_grad():
                for group, flat in self._groups():
                    self._collect_group(group, flat)
        except BaseException:
            self.discard()
            raise
        self._sampling = False
        if restore:
            self.restore()

    def restore(self) -> None:
        """Put the prediction weights into the module, dropping a sample that is still open.

        Inside a block of `weights` it gets those of the block.
        """
        self._sampling = False
        self._synchronise()
        if self._held is not None:
            self._hold(self._held)
            return
        with torch.no_grad():
            for group, flat in self._groups():
                self._predict_with(group, flat)

    def discard(self) -> None:
        """Forget all samples since the last step, and put the prediction weights into the module."""
        for flat in self._flat:
            flat.forget()
        self.restore()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update from the samples collected since the last one.

        Args:
            closure: Computes the loss, calls `backward()` and returns the loss. It runs in `num_samples` blocks of
                `sampled_params()` of its own. Without it, at least one block must have been left before.

        Returns:
            The mean loss of the closure's runs, or None.

        Raises:
            RuntimeError: No gradient was collected, a block is still open, or torch's GradScaler makes the step.
        """
        if vars(self).pop("found_inf", None) is not None:
            raise RuntimeError(
                "GradScaler can't be used: gradients are collected, still scaled, when sampled_params() is left. "
                "Use autocast with bfloat16, which needs no scaling"
            )
        loss = self._run_closure(closure) if closure is not None else None
        if self._sampling:
            raise RuntimeError("step() inside sampled_params(): leave the block first")
        trainable = any(p.requires_grad for flat in self._flat for p in flat.params)
        missing = any(flat.params and not flat.samples for flat in self._flat)
        if missing or (trainable and not any(any(flat.has_gradient) for flat in self._flat)):
            self.discard()
            raise RuntimeError("step() has no gradients: run the backward pass inside `with opt.sampled_params():`")
        try:
            for group, flat in self._groups():
                self._update_group(group, flat)
        except BaseException:
            self.discard()
            raise
        self.restore()
        return loss

    def sample_weights(self, noise: Noise | None = None) -> list[Tensor]:
        """One draw of all weights from what was learned, each exactly ±1, in parameter order.

        Args:
            noise: Where the randomness comes from; None uses the optimizer's own stream.
        """
        self._synchronise()
        noise = self.noise if noise is None else noise
        return [view for group, flat in self._groups() for view in flat.views(self._draw(group, flat, noise))]

    def mode_weights(self) -> list[Tensor]:
        """The prediction weights, exactly ±1, in parameter order."""
        self._synchronise()
        return [view for group, flat in self._groups() for view in flat.views(self._mode(group, flat))]

    @contextmanager
    def weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Hold these weights in the module inside the block, after it the mode again, or those of an outer block.

        Raises:
            RuntimeError: The block is entered inside `sampled_params()`.
        """
        if self._sampling:
            raise RuntimeError("other weights inside sampled_params(): leave the block first")
        self._synchronise()
        outer, self._held = self._held, weights
        try:
            self._hold(weights)
            yield
        finally:
            self._held = outer
            self.restore()

    def parameters(self) -> list[Tensor]:
        """All parameters in order, over all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    def set_parameters(self, params: Sequence[Tensor], renamed: Mapping[Any, Any] | None = None) -> None:
        """Make these the parameters, keeping the state of those already known.

        Args:
            params: The parameters from now on. Those not known yet start fresh, in the first group.
            renamed: New parameter → the old one that it replaces. Where both have an entry, the state is carried
                over (a classifier that grew by some rows keeps what its old rows learned).
        """
        renamed = renamed or {}
        successor = {old: new for new, old in renamed.items()}
        wanted = {id(p) for p in params}
        there: set[int] = set()
        for group in self.param_groups:
            kept = {id(q): q for q in (successor.get(p, p) for p in group["params"])}
            group["params"] = [q for key, q in kept.items() if key in wanted - there]
            there |= kept.keys()
        self.param_groups[0]["params"] += [p for p in params if id(p) not in there]
        self._synchronise(renamed)
        self.restore()

    # --- state on disk ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit: one entry per parameter, the groups, the random stream."""
        self._synchronise()
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
        super().load_state_dict({**state_dict, "state": {}})
        self.noise.load_state_dict(noise)
        index = 0
        for flat in self._flat:
            for name in self._optional & set(entries.get(index, {})) - set(flat.tensors):
                flat.tensors[name] = torch.zeros(flat.numel, dtype=flat.dtype, device=flat.device)
            for mine in flat.entries():
                for name, view in mine.items():
                    view.copy_(entries[index][name]) if name in entries[index] else view.zero_()
                index += 1
            flat.forget()
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
        super().add_param_group({**param_group, "params": params})
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        if self._flat:  # not while the optimizer is made
            self._synchronise()

    # --- for subclasses --------------------------------------------------------------------------------------------

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ValueError for an option out of range."""

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        raise NotImplementedError

    def _training_weights(self, group: dict[str, Any], piece: Piece) -> None:
        raise NotImplementedError

    def _collect(self, group: dict[str, Any], piece: Piece) -> None:
        """The gradient as it is, unless a subclass does more."""

    def _begin_update(self, group: dict[str, Any], flat: FlatState) -> None:
        """What a step does once, before the pieces."""

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        raise NotImplementedError

    def _end_update(self, group: dict[str, Any], flat: FlatState) -> None:
        """What a step does once, after the pieces: it is counted."""
        if "step" in group:
            group["step"] += 1

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        raise NotImplementedError

    def _draw(self, group: dict[str, Any], flat: FlatState, noise: Noise) -> Tensor:
        """One draw of flat weights, a new tensor; methods without a posterior have only their mode."""
        return self._mode(group, flat)

    # --- inner ------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which torch's optimizers make without what they don't know."""
        own = {name: value for name, value in vars(self).items() if name in self._KEPT}
        return {**super().__getstate__(), **own}

    def _hold(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters(), list(weights))
        torch.clear_autocast_cache()

    def _groups(self) -> list[tuple[dict[str, Any], FlatState]]:
        """The groups that have parameters, each with its state."""
        return [(group, flat) for group, flat in zip(self.param_groups, self._flat, strict=True) if flat.params]

    def _train_with(self, group: dict[str, Any], flat: FlatState) -> None:
        """Put a group's training weights into the module."""
        if self._trains_with_signs:
            self._predict_with(group, flat)
            return
        flat.look()
        for piece in flat.pieces():
            self._training_weights(group, piece)
        flat.put()

    def _collect_group(self, group: dict[str, Any], flat: FlatState) -> None:
        """Add a sample's gradients to those collected since the last step."""
        flat.samples += 1
        if flat.samples == 1:
            for piece in flat.collect("total"):
                self._collect(group, piece)
            return
        for piece, total in zip(flat.collect("sample"), flat.pieces("total"), strict=True):
            self._collect(group, piece)
            total.gradient.add_(piece.gradient)

    def _update_group(self, group: dict[str, Any], flat: FlatState) -> None:
        """The step of one group; as in torch, a parameter without a gradient is not updated."""
        self._begin_update(group, flat)
        entries = [] if all(flat.has_gradient) else flat.entries()
        idle = [entry for entry, seen in zip(entries, flat.has_gradient, strict=False) if not seen]
        kept = [{name: view.clone() for name, view in entry.items()} for entry in idle]
        for piece in flat.pieces():
            if flat.samples > 1:
                piece.gradient.div_(flat.samples)
            self._update(group, piece)
        self._end_update(group, flat)
        for entry, before in zip(idle, kept, strict=True):
            for name, view in entry.items():
                view.copy_(before[name])
        flat.forget()

    def _predict_with(self, group: dict[str, Any], flat: FlatState) -> None:
        """Put a group's ±1 into the module, unless it holds them."""
        if not flat.predicting:
            flat.look()
            for piece in flat.pieces():
                self._prediction_weights(group, piece)
            flat.put()
            flat.mark_predicting()

    def _mode(self, group: dict[str, Any], flat: FlatState) -> Tensor:
        """The ±1 of a group, a new flat tensor."""
        out = torch.empty(flat.numel, dtype=flat.dtype, device=flat.device)
        pieces = flat.pieces()
        for piece, weights in zip(pieces, torch.split(out, [len(piece.weights) for piece in pieces]), strict=True):
            self._prediction_weights(group, dataclasses.replace(piece, weights=weights))
        return out

    @contextmanager
    def _sample(self, restore: bool = True) -> Iterator[None]:
        """A sampling block; `restore` as in `close_sample`."""
        self.open_sample()
        try:
            yield
            self.close_sample(restore)
        except BaseException:
            self.restore()
            raise

    def _run_closure(self, closure: Callable[[], Any]) -> Any:
        losses = []
        try:
            for _ in range(self.param_groups[0].get("num_samples", 1)):
                with torch.enable_grad(), self._sample(restore=False):  # the step that follows does it
                    losses.append(closure())
        except BaseException:
            self.discard()
            raise
        return None if losses[0] is None else sum(losses) / len(losses)

    def _synchronise(self, renamed: Mapping[Any, Any] | None = None) -> None:
        """Follow the parameters: new ones start fresh, moved ones take their state along, the rest keep theirs."""
        if (
            len(self._flat) == len(self.param_groups)
            and not renamed
            and all(
                flat.holds(group["params"]) and _in_place(flat)
                for group, flat in zip(self.param_groups, self._flat, strict=True)
            )
        ):
            return
        known = {p: entry for flat in self._flat for p, entry in zip(flat.params, flat.entries(), strict=True)}
        self._flat = []
        for group in self.param_groups:
            flat = FlatState(group["params"], self._by_parameter)
            self._check(flat.params)
            self._flat.append(flat)
            if not flat.params:
                continue
            self.noise.to(flat.device)
            flat.tensors = self._start(group, flat)
            for p, entry in zip(flat.params, flat.entries(), strict=True):
                old = known.get(p) or known.get((renamed or {}).get(p, p))
                for name, view in entry.items():
                    if old and name in old:
                        overlap = tuple(slice(0, min(a, b)) for a, b in zip(view.shape, old[name].shape, strict=True))
                        view[overlap] = old[name][overlap].to(view.device)
        if not self._sampling:
            self.restore()

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
        if len({p.device for p in params}) > 1:
            raise ValueError("parameters of one group must be on one device: make one group for each device")


def _in_place(flat: FlatState) -> bool:
    """Whether the state is where the parameters are, and of their type."""
    tensor = next(iter(flat.tensors.values()), None)
    if tensor is None:
        return True
    if tensor.dtype != flat.dtype:
        raise TypeError(
            f"the parameters became {flat.dtype} after the optimizer was made for {tensor.dtype}: "
            "convert the module first, then make the optimizer"
        )
    return tensor.device == flat.device
