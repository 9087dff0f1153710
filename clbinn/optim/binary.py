"""What all binary optimizers share: the weights that train, the weights that predict, and the step.

A binary optimizer keeps something real behind every weight (a natural parameter, a latent weight, a running average).
The module itself holds the *prediction weights*, exactly ±1, at all times except inside `sampled_params()`, where it
holds the *training weights* that the gradient is taken at. A subclass says what these are, for some weights at a time
(a `Piece`, see `clbinn.optim._flat`):

    _check_group(group)                 raise ValueError for an option out of range
    _start(group, flat)                 make the state of a group's parameters: flat tensors by name
    _training_weights(group, piece)     fill `piece.weights` with what `sampled_params()` puts into the module;
                                        not needed with `_trains_with_signs`
    _collect(group, piece, slope)       fill `piece.gradient` with what is averaged, from one sample's gradient `slope`
    _update(group, piece)               the step, from the average over the samples in `piece.gradient`;
                                        `_begin_update` and `_end_update` are called once around the pieces
    _prediction_weights(group, piece)   fill `piece.weights` with ±1
    _step_piece(group, piece, slope)    the last three for one sample, where one pass over memory can do them all
    _draw(group, flat, noise)           one draw of ±1, for methods with a posterior
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from clbinn.optim._flat import FlatState, Piece, State
from clbinn.optim._flat_optimizer import FlatOptimizer, mean_loss
from clbinn.optim._noise import Noise

__all__ = ["BinaryOptimizer"]


class BinaryOptimizer(FlatOptimizer):
    """Base of the optimizers whose modules predict with weights in {-1, +1}.

    Args:
        params: Parameters or parameter groups, all float32 or all float64, as for any torch optimizer.
        defaults: Options of a group.
        seed: Seed of the optimizer's own random numbers; None takes one from torch's global generator.

    Raises:
        ValueError: No parameters, a parameter given twice, or an option out of range.
        TypeError: Parameters of half precision or of mixed types.
    """

    _KEPT: ClassVar[set[str]] = FlatOptimizer._KEPT | {"_held", "_pending"}
    _trains_with_signs: ClassVar[bool] = False  # the training weights are the prediction weights
    _step_supports_amp_scaling = True  # asks torch's GradScaler to tell, so that step() can refuse it

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], seed: int | None = None) -> None:
        self._held: Sequence[Tensor] | None = None
        self._pending = False  # the last sample's gradients are still with the parameters
        super().__init__(params, defaults, seed)

    # --- the part that a user calls -------------------------------------------------------------------------------

    @contextmanager
    def sampled_params(self) -> Iterator[None]:
        """Put the training weights into the module; on leaving, take the gradients and put back the ±1.

        Several blocks before one `step()` are averaged. After an exception inside the block its gradients are dropped.
        What the block finds in the module is to stay there until the gradients were taken. They are taken when the
        block is left: clip them inside it.

        Raises:
            RuntimeError: The block is entered inside another one.
        """
        with self._sample():
            yield

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's, without its slow record for the profiler. Collected samples stay: `discard()` forgets them."""
        self._take_pending()
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none or p.grad is None:
                    p.grad = None
                    continue
                if p.grad.grad_fn is not None:
                    p.grad.detach_()
                else:
                    p.grad.requires_grad_(False)
                p.grad.zero_()

    def open_sample(self) -> None:
        """Enter `sampled_params()`, for loops that can't use a with block."""
        if self._sampling:
            raise RuntimeError("sampled_params() is already open: blocks can't be nested")
        self._take_pending()
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
        """Leave `sampled_params()` in order: this sample's gradients count for the next step.

        Args:
            restore: Whether to collect them and put the ±1 back at once. Else a `step()` that follows directly does it,
                with all that it does to some weights in one go; until then the gradients and what the module holds
                must stay as they are.
        """
        if not self._sampling:
            raise RuntimeError("no sampled_params() block is open")
        try:
            for _, flat in self._groups():
                flat.note_sample()
        except BaseException:
            self.discard()
            raise
        self._sampling, self._pending = False, True
        if restore:
            self.restore()

    def restore(self) -> None:
        """Put the prediction weights into the module, dropping a sample that is still open.

        Inside a block of `weights` it gets those of the block. A step that has put them there itself doesn't call this.
        """
        self._sampling = False
        self._take_pending()
        self._synchronise()
        if self._held is not None:
            self._hold(self._held)
            return
        with torch.no_grad():
            for group, flat in self._groups():
                self._predict_with(group, flat)

    def discard(self) -> None:
        """Forget all samples since the last step, and put the prediction weights into the module."""
        self._pending = False
        for flat in self._flat:
            flat.clear_samples()
        self.restore()

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
        if not self._watched():
            return self._step(closure)
        return self._watched_step() if closure is None else self._watched_step(closure=closure)

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        if vars(self).pop("found_inf", None) is not None:
            self.discard()
            raise RuntimeError(
                "GradScaler can't be used: gradients are taken as they are, still scaled, for each sample. "
                "Use autocast with bfloat16, which needs no scaling"
            )
        loss = self._run_closure(closure) if closure is not None else None
        if self._sampling:
            raise RuntimeError("step() inside sampled_params(): leave the block first")
        if not self._collected():
            self.discard()
            raise RuntimeError("step() has no gradients: run the backward pass inside `with opt.sampled_params():`")
        groups = self._groups()
        at_once = self._pending and all(flat.samples == 1 for _, flat in groups)
        if not at_once:
            self._take_pending()
        try:
            predicting = [self._update_group(group, flat, at_once) for group, flat in groups]
        except BaseException:
            self.discard()
            raise
        self._pending = False
        if not all(predicting):
            self.restore()
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it for all, which takes 4 % of a small step
    _watched_step = FlatOptimizer.profile_hook_step(_step)

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
        self._take_pending()
        self._synchronise()
        outer, self._held = self._held, weights
        try:
            self._hold(weights)
            yield
        finally:
            self._held = outer
            self.restore()

    # --- for subclasses --------------------------------------------------------------------------------------------

    def _training_weights(self, group: dict[str, Any], piece: Piece) -> None:
        raise NotImplementedError

    def _collect(self, group: dict[str, Any], piece: Piece, slope: Tensor) -> None:
        """The gradient as it is, unless a subclass does more."""
        piece.gradient.copy_(slope)

    def _begin_update(self, group: dict[str, Any], flat: FlatState) -> None:
        """What a step does once, before the pieces."""

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        raise NotImplementedError

    def _step_piece(self, group: dict[str, Any], piece: Piece, slope: Tensor) -> None:
        """Collection, update and prediction weights of the one sample of a step, while the piece is in the cache."""
        self._collect(group, piece, slope)
        self._update(group, piece)
        self._prediction_weights(group, piece)

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
        """For copies and pickles, which have the parameters without their gradients."""
        self._take_pending()
        return super().__getstate__()

    def _watched(self) -> bool:
        """Whether torch has hooks to call around a step, or a profiler that records it."""
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        of_all = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
        return bool(own or of_all or profiler._is_profiler_enabled)

    def _hold(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters(), list(weights))
        torch.clear_autocast_cache()

    def _train_with(self, group: dict[str, Any], flat: FlatState) -> None:
        """Put a group's training weights into the module."""
        if self._trains_with_signs:
            self._predict_with(group, flat)
            return
        flat.choose_buffers()
        for piece in flat.pieces():
            self._training_weights(group, piece)
        flat.write_to_module()

    def _take_pending(self) -> None:
        """Collect the sample that was left to a step, before its weights or gradients change."""
        if not self._pending:
            return
        try:
            with torch.no_grad():
                for group, flat in self._groups():
                    if flat.samples:
                        self._collect_group(group, flat)
        except BaseException:
            self.discard()
            raise
        self._pending = False

    def _collect_group(self, group: dict[str, Any], flat: FlatState) -> None:
        """Add a sample's gradients to those collected since the last step."""
        if flat.samples == 1:
            for piece, slope in flat.collect("total"):
                self._collect(group, piece, slope)
            return
        for (piece, slope), total in zip(flat.collect("sample"), flat.pieces("total"), strict=True):
            self._collect(group, piece, slope)
            total.gradient.add_(piece.gradient)

    def _update_group(self, group: dict[str, Any], flat: FlatState, at_once: bool) -> bool:
        """The step of one group, and whether the module holds its new ±1 then.

        `at_once`: the one sample is still to be collected. As in torch, a parameter without a gradient is not updated.
        """
        self._begin_update(group, flat)
        idle: list[State] = []
        if not all(flat.has_gradient):
            idle = [entry for entry, seen in zip(flat.entries(), flat.has_gradient, strict=True) if not seen]
        kept = [{name: view.clone() for name, view in entry.items()} for entry in idle]
        if at_once:
            for piece, slope in flat.collect("scratch"):
                self._step_piece(group, piece, slope)
        else:
            for piece in flat.pieces():
                if flat.samples > 1:
                    piece.gradient.div_(flat.samples)
                self._update(group, piece)
        increment_version(list(flat.tensors.values()))
        self._end_update(group, flat)
        for entry, before in zip(idle, kept, strict=True):
            for name, view in entry.items():
                view.copy_(before[name])
        flat.clear_samples()
        predicting = at_once and not idle and self._held is None and flat.reaches_module
        if predicting:
            flat.write_to_module()
            flat.mark_predicting()
        return predicting

    def _predict_with(self, group: dict[str, Any], flat: FlatState) -> None:
        """Put a group's ±1 into the module, unless it holds them."""
        if not flat.predicting:
            flat.choose_buffers()
            for piece in flat.pieces():
                self._prediction_weights(group, piece)
            flat.write_to_module()
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

    def _collected(self) -> bool:
        """Whether a sample was taken, with gradients if there is anything to train."""
        if any(flat.params and not flat.samples for flat in self._flat):
            return False
        seen = any(any(flat.has_gradient) for flat in self._flat)
        return seen or not any(p.requires_grad for flat in self._flat for p in flat.params)

    def _run_closure(self, closure: Callable[[], Any]) -> Any:
        losses = []
        try:
            for _ in range(self.param_groups[0].get("num_samples", 1)):
                with torch.enable_grad(), self._sample(restore=False):  # the step that follows does it
                    losses.append(closure())
            return mean_loss(losses)
        except BaseException:
            self.discard()
            raise
