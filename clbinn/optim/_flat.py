"""The state of many weights as few long tensors, worked on in pieces.

On a CPU the pieces are slices of the parameters that fit a core's cache, worked on where they lie: each way to memory
and back costs as much as the arithmetic. On a card, weights and gradients are gathered in flat buffers and are one
piece, so that the number of operations does not grow with the number of parameters. Parameters that are not contiguous
are always gathered, but cut as ever: noise does not depend on it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version

from clbinn.optim import _loops

__all__ = ["FlatState", "Piece", "State", "write_signs"]

State = dict[str, Tensor]
Array = NDArray[Any]
CHUNK = 2**17  # numbers of a piece on a CPU, at most: a few pieces fit a core's cache. A multiple of a row of noise


@dataclass(slots=True)
class Arrays:
    """The numbers of a piece as NumPy arrays, for compiled loops."""

    state: dict[str, Array]
    weights: Array
    gradient: Array


@dataclass(slots=True)
class Piece:
    """Some weights of a group, as flat tensors of one length.

    Attributes:
        state: What the optimizer keeps of them, by name.
        weights: What the module holds, or will hold; where nothing is gathered, the module's own numbers.
        gradient: Of one sample while it is collected; their sum between samples; their mean in an update. Pieces that
            are collected and updated at once share one place for it.
        param: The parameter that they all belong to; None where they may belong to several.
        arrays: State, weights and gradient once more, for float32 on a CPU; else None.
    """

    state: State
    weights: Tensor
    gradient: Tensor
    param: Tensor | None
    arrays: Arrays | None = None

    def __post_init__(self) -> None:
        if self.weights.device.type == "cpu" and self.weights.dtype == torch.float32:
            state = {name: tensor.numpy() for name, tensor in self.state.items()}
            self.arrays = Arrays(state, self.weights.numpy(), self.gradient.numpy())


class FlatState:
    """The state of one parameter group: named flat tensors, each with one view per parameter.

    Args:
        params: The parameters.
        by_parameter: Never let a piece reach over several parameters, however small they are.
    """

    def __init__(self, params: Sequence[Tensor], by_parameter: bool = False) -> None:
        self.params = list(params)
        self.by_parameter = by_parameter
        self.sizes = [p.numel() for p in self.params]
        self.numel = sum(self.sizes)
        self.tensors: State = {}
        self.samples = 0
        self.has_gradient = [False] * len(self.params)
        self._buffers: State = {}
        self._weight_views: list[Tensor] = []  # of the buffer of weights
        self._pieces: dict[str, tuple[tuple[int, ...], list[Piece]]] = {}  # by buffer of gradients, with its place
        self._predicting: list[int] | None = None  # versions of all tensors when the ±1 were written
        self.choose_buffers()

    @property
    def device(self) -> torch.device:
        """Where the parameters are now."""
        return self.params[0].device if self.params else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.params[0].dtype if self.params else torch.float32

    def choose_buffers(self) -> None:
        """Before weights are written: decide whether they and the gradients pass through flat buffers (`gathered`)."""
        self.gathered = self.device.type != "cpu" or not all(p.is_contiguous() for p in self.params)
        self._predicting = None  # compiled loops write without torch's knowledge

    @property
    def reaches_module(self) -> bool:
        """Whether `write_to_module` still brings what is written to the pieces' weights into the module."""
        return self.gathered or all(p.is_contiguous() for p in self.params)

    def check_sizes(self) -> None:
        """Raise RuntimeError for a parameter that is not as long as its state: compiled loops don't look."""
        for position, (p, size) in enumerate(zip(self.params, self.sizes, strict=True)):
            if p.numel() != size:
                raise RuntimeError(
                    f"parameter {position} has {p.numel()} numbers now, and had {size} when its state was made: "
                    "make a new parameter and hand it over by set_parameters()"
                )

    def keep_parts(self, optional: set[str], wanted: set[str]) -> None:
        """Have these of the optional parts of the state and no others; new ones are 0."""
        for name in optional - wanted:
            self.tensors.pop(name, None)
        for name in sorted(wanted - self.tensors.keys()):
            self.tensors[name] = torch.zeros(self.numel, dtype=self.dtype, device=self.device)
        self._pieces.clear()

    def holds(self, params: Sequence[Tensor]) -> bool:
        """Whether these are the parameters, the very same objects in the same order."""
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params, strict=True))

    def views(self, flat: Tensor) -> list[Tensor]:
        """A flat tensor cut into the parameters' shapes, sharing memory."""
        pieces = torch.split_with_sizes(flat, self.sizes)
        return [piece.view_as(p) for piece, p in zip(pieces, self.params, strict=True)]

    def entries(self) -> list[State]:
        """The state of each parameter, as views in its shape."""
        views = {name: self.views(flat) for name, flat in self.tensors.items()}
        return [{name: view[i] for name, view in views.items()} for i in range(len(self.params))]

    # --- pieces -----------------------------------------------------------------------------------------------------

    def pieces(self, gradient: str = "total") -> list[Piece]:
        """The group in pieces.

        Args:
            gradient: The buffer that `Piece.gradient` is cut from; pieces of "scratch" share one place.
        """
        held = (*self.tensors.values(), *self._buffers.values(), *self.params) if self.device.type == "cpu" else ()
        where = (self.gathered, len(self.tensors), *(tensor.data_ptr() for tensor in held))
        if gradient in self._pieces and self._pieces[gradient][0] == where:
            return self._pieces[gradient][1]
        if self.device.type != "cpu" and not self.by_parameter:
            sizes = [self.numel]
            owners: list[Tensor | None] = [None]
        else:
            parts = [_parts(size, self.device) for size in self.sizes]
            sizes = [size for part in parts for size in part]
            owners = [p for p, part in zip(self.params, parts, strict=True) for _ in part]
        states = {name: torch.split_with_sizes(flat, sizes) for name, flat in self.tensors.items()}
        if gradient == "scratch":
            buffer = torch.empty(max(sizes, default=0), dtype=self.dtype, device=self.device)
            slopes: Sequence[Tensor] = [buffer[:size] for size in sizes]
        else:
            slopes = torch.split_with_sizes(self._buffer(gradient), sizes)
        found = [
            Piece({name: cut[i] for name, cut in states.items()}, weights, slope, owner)
            for i, (weights, slope, owner) in enumerate(zip(self._weights(sizes), slopes, owners, strict=True))
        ]
        self._pieces[gradient] = where, found
        return found

    def note_sample(self) -> None:
        """Count a sample, and which parameters have a gradient in it."""
        self.samples += 1
        for position, p in enumerate(self.params):
            self.has_gradient[position] |= p.grad is not None

    def collect(self, gradient: str) -> Iterable[tuple[Piece, Tensor]]:
        """The pieces, each with the parameters' gradients now, 0 where there is none."""
        self.check_sizes()
        slopes = [_slope(p) for p in self.params]
        if [slope.numel() for slope in slopes] != self.sizes:
            raise RuntimeError("a gradient is not as long as its parameter: it was resized in place")
        pieces = self.pieces(gradient)
        if self.gathered:
            slopes = list(torch.split_with_sizes(torch.cat(slopes), [len(piece.weights) for piece in pieces]))
        elif len(pieces) > len(slopes):
            slopes = [part for s in slopes for part in torch.split_with_sizes(s, _parts(s.numel(), self.device))]
        return zip(pieces, slopes, strict=True)

    def write_to_module(self) -> None:
        """Let the module hold what was written into the pieces' weights."""
        if self.gathered and self.params:
            self._weight_views = self._weight_views or self.views(self._buffer("weights"))
            torch._foreach_copy_(self.params, self._weight_views)
        elif self.params:
            increment_version(self.params)  # graphs built with the weights before are invalid now
        torch.clear_autocast_cache()  # it keeps the weights before in half precision
        self._predicting = None

    # --- whether the module predicts --------------------------------------------------------------------------------

    @property
    def predicting(self) -> bool:
        """Whether the module holds the ±1 of the state as it is now."""
        return self._predicting is not None and self._predicting == self._versions()

    def mark_predicting(self) -> None:
        """Note that the module holds the ±1 of the state."""
        self._predicting = self._versions()

    def clear_samples(self) -> None:
        """Drop the samples: what follows belongs to the next step."""
        self.samples, self._predicting = 0, None
        self.has_gradient = [False] * len(self.params)

    def _versions(self) -> list[int]:
        """Torch's count of changes in place of each tensor (compiled loops don't count), and the parameters' places."""
        tensors = (*self.tensors.values(), *self.params)
        return [tensor._version for tensor in tensors] + [p.data_ptr() for p in self.params]

    # --- inner ------------------------------------------------------------------------------------------------------

    def _buffer(self, name: str) -> Tensor:
        """A flat tensor that is used again in each step: a new one of many megabytes costs more than its use."""
        if name not in self._buffers:
            self._buffers[name] = torch.empty(self.numel, dtype=self.dtype, device=self.device)
        return self._buffers[name]

    def _weights(self, sizes: list[int]) -> list[Tensor]:
        if self.gathered:
            return list(torch.split_with_sizes(self._buffer("weights"), sizes))
        flat = (p.detach().reshape(-1) for p in self.params)
        return [part for weight in flat for part in torch.split(weight, _parts(len(weight), self.device))]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: views belong to the tensors they were made of."""
        return {**vars(self), "_pieces": {}, "_weight_views": [], "_predicting": None}


def _slope(p: Tensor) -> Tensor:
    """The gradient, flat, dense and of the parameter's type; 0 where there is none."""
    if p.grad is None:
        return torch.zeros_like(p).reshape(-1)
    plain = p.grad.layout is torch.strided and p.grad.dtype is p.dtype  # conversions take time even then
    return (p.grad if plain else p.grad.to_dense().to(p.dtype)).reshape(-1)


def _parts(numel: int, device: torch.device) -> list[int]:
    """Sizes of the pieces that so many numbers are worked on in."""
    if device.type != "cpu" or numel <= CHUNK:
        return [numel]
    return [min(CHUNK, numel - start) for start in range(0, numel, CHUNK)]


def write_signs(piece: Piece, latent: str, minus: str | None = None) -> None:
    """Writes `bernoulli.mode` of a part of the state, or of the difference of two, to the weights: ±1, with 0 → +1."""
    if piece.arrays and minus is None:
        _loops.signs(piece.arrays.state[latent], piece.arrays.weights)
    elif piece.arrays and minus is not None:
        _loops.signs_of_difference(piece.arrays.state[latent], piece.arrays.state[minus], piece.arrays.weights)
    else:
        other = 0 if minus is None else piece.state[minus]
        torch.ge(piece.state[latent], other, out=piece.weights).mul_(2).sub_(1)
