"""The state of many weights as few long tensors: one pass over memory where there would be one for each parameter."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlatState", "State", "chunks", "signs"]

State = dict[str, Tensor]
CHUNK = 2**17  # numbers of a piece: a few pieces fit a core's cache


class FlatState:
    """The state of one parameter group: named flat tensors, each with one view per parameter."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        self.sizes = [p.numel() for p in self.params]
        self.tensors: State = {}
        self.samples = 0
        self.has_gradient = [False] * len(self.params)
        self.prediction: Tensor | None = None
        self.predicted: list[int] = []  # versions of the tensors that the prediction was made from
        self.scratch: State = {}
        self._views: dict[int, tuple[Tensor, list[Tensor]]] = {}
        self._written: tuple[Tensor | None, list[int]] = (None, [])

    @property
    def numel(self) -> int:
        """Number of weights in the group."""
        return sum(self.sizes)

    @property
    def device(self) -> torch.device:
        """Where the parameters are now."""
        return self.params[0].device if self.params else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.params[0].dtype if self.params else torch.float32

    def holds(self, params: Sequence[Tensor]) -> bool:
        """Whether these are the parameters, the very same objects in the same order."""
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params, strict=True))

    def views(self, flat: Tensor) -> list[Tensor]:
        """The flat tensor cut into the parameters' shapes, sharing memory."""
        kept = self._views.get(id(flat))
        if kept is not None:
            return kept[1]
        pieces = torch.split_with_sizes(flat, self.sizes)
        return [piece.view_as(p) for piece, p in zip(pieces, self.params, strict=True)]

    def buffer(self, name: str) -> Tensor:
        """A flat tensor that is used again in each step: a new one of many megabytes costs more than its use."""
        if name not in self.scratch:
            out = torch.empty(self.numel, dtype=self.dtype, device=self.device)
            self.scratch[name], self._views[id(out)] = out, (out, self.views(out))
        return self.scratch[name]

    def entry(self, position: int) -> State:
        """The state of one parameter, as views in its shape."""
        return {name: self.views(flat)[position] for name, flat in self.tensors.items()}

    def gradient(self) -> Tensor:
        """The parameters' gradients as one flat tensor, 0 where there is none."""
        for position, p in enumerate(self.params):
            self.has_gradient[position] |= p.grad is not None
        pieces = [(torch.zeros_like(p) if p.grad is None else p.grad.to_dense()).reshape(-1) for p in self.params]
        return torch.cat(pieces, out=self.buffer("gradient"))

    def swap(self, first: str, second: str) -> None:
        """Exchange two buffers."""
        self.scratch[first], self.scratch[second] = self.buffer(second), self.buffer(first)

    def write(self, flat: Tensor) -> None:
        """Copy a flat tensor into the parameters, unless they hold it and nothing was changed since."""
        if not self.params or (self._written[0] is flat and self._written[1] == self._versions(flat)):
            return
        torch._foreach_copy_(self.params, self.views(flat))
        torch.clear_autocast_cache()  # it keeps the weights of before, in half precision
        self._written = flat, self._versions(flat)

    def _versions(self, flat: Tensor) -> list[int]:
        """Torch's count of in-place changes of each tensor."""
        return [tensor._version for tensor in (flat, *self.params)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of copies and pickles: views belong to the tensors they were made of."""
        vars(self).update(state)
        self._written = None, []
        self._views = {}
        self._views = {id(buffer): (buffer, self.views(buffer)) for buffer in self.scratch.values()}


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat tensors of one length cut into pieces that stay in a CPU's cache through many passes."""
    if tensors[0].numel() <= CHUNK or tensors[0].device.type != "cpu":
        return iter([tensors])
    return zip(*(torch.split(tensor, CHUNK) for tensor in tensors), strict=True)


def signs(out: Tensor, latent: Tensor, minus: Tensor | None = None) -> Tensor:
    """`bernoulli.mode` of a flat tensor, or of the difference of two, written into `out`: ±1, with 0 → +1."""
    for piece, value, other in chunks(out, latent, latent if minus is None else minus):
        torch.ge(value, other if minus is not None else 0, out=piece).mul_(2).sub_(1)
    return out
