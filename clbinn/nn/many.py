"""One MLP with many weight samples at once: what prediction with C = 100 samples spends its time on.

All samples share the inputs, so the first layer of all of them is one matrix product; the later layers are batched
products. Where the inputs are bytes and the weights ±1, the first product is one of integers, exact and faster.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clbinn.nn.byte_products import ByteProducts
from clbinn.nn.folded import Folded, fold
from clbinn.nn.lean import BatchNorm1d, Dropout
from clbinn.nn.mean_field import MeanFieldLinear
from clbinn.nn.mlp import MLP, FanInScale

__all__ = ["ByteInputs", "SharedInputs", "inputs_at_a_time", "takes_many"]

# what `_Block` knows; anything else goes through the network itself
_LAYERS = {nn.Flatten, nn.Dropout, Dropout, nn.Linear, MeanFieldLinear, nn.BatchNorm1d, BatchNorm1d, nn.LayerNorm}
_LAYERS |= {FanInScale, nn.ReLU, nn.Tanh}
CHUNK = 1_000_000  # numbers of one intermediate result: about what a core's cache holds
BYTES_AT_A_TIME = 2000  # inputs: with `CHUNK`, five networks of Table 12, whose weights are made ready


@dataclass(frozen=True)
class ByteInputs:
    """Inputs that are bytes with one affine map: x = raw · scale + shift.

    Attributes:
        raw: (n, features), uint8.
        scale: Positive factor.
        shift: Added after it.
    """

    raw: Tensor
    scale: float
    shift: float

    def __len__(self) -> int:
        return len(self.raw)

    def split(self, size: int) -> list["ByteInputs"]:
        """Pieces of `size` inputs, the last one may have fewer."""
        return [ByteInputs(piece, self.scale, self.shift) for piece in torch.split(self.raw, size)]

    def to(self, device: torch.device | str) -> "ByteInputs":
        """The same on another device."""
        return ByteInputs(self.raw.to(device), self.scale, self.shift)

    def floats(self) -> Tensor:
        """(n, features), float32."""
        return self.raw.float().mul_(self.scale).add_(self.shift)


def takes_many(net: nn.Module, params: Sequence[Tensor]) -> bool:
    """Whether `SharedInputs` can run this network: a plain MLP whose only parameters are these, one a layer.

    Layers that share a weight, and hooks, which would not be called, are left to the network itself.
    """
    if type(net) is not MLP or not {type(layer) for layer in net.layers} <= _LAYERS:
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in net.modules()):
        return False
    own = [p for _, p in net.named_parameters(remove_duplicate=False)]
    return (
        len(own) == len(params)
        and all(a is b for a, b in zip(own, params, strict=True))
        and all(p.ndim == 2 for p in own)
    )


def inputs_at_a_time(net: MLP, x: Tensor | ByteInputs, batch_size: int) -> int:
    """The batch size, or more for bytes if no normalisation is by the batch's own statistics."""
    norms = [layer for layer in net.layers if isinstance(layer, nn.BatchNorm1d)]
    if not isinstance(x, ByteInputs) or any(norm.running_mean is None for norm in norms):
        return batch_size
    return max(batch_size, BYTES_AT_A_TIME)


class SharedInputs:
    """Batches of inputs that many networks share, made ready for their first product.

    Args:
        net: In evaluation mode; its statistics are read now. Batch normalisations without any use the batch's own.
        batches: Inputs (n, …) of each, all float, or all bytes (n, features).

    Raises:
        ValueError: Inputs of another size, or a batch of one for batch normalisation by the batch's own statistics.

    Attributes:
        networks_at_a_time: How many sets of weights to work on at a time: so many that an intermediate result of a
            batch has the size of a core's cache.
    """

    def __init__(self, net: MLP, batches: Sequence[Tensor | ByteInputs]) -> None:
        self.net = net
        self.batches = [x if isinstance(x, ByteInputs) else x.flatten(1) for x in batches]
        for x in self.batches:
            features = (x.raw if isinstance(x, ByteInputs) else x).shape[1]
            if features != net.in_features:
                raise ValueError(f"the network takes {net.in_features} numbers for each input, got {features}")
        raw = [x.raw for x in self.batches if isinstance(x, ByteInputs) and x.raw.device.type == "cpu"]
        # on a card cuBLAS wants sizes in multiples of eight: float products are quick there
        self.exact = ByteProducts(raw) if raw else None
        self.blocks = _blocks(net)
        widest = max(block.linear.out_features for block in self.blocks)
        self.networks_at_a_time = max(1, CHUNK // max(widest * max(map(len, self.batches)), 1))

    def logits(self, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """The logits of each batch under c sets of weights.

        Args:
            weights: For each layer ±1 weights (c, out, in), in the order of the network's parameters.

        Yields:
            (c, n, classes), equal to running the network c times up to the rounding of sums.
        """
        samples, units, features = weights[0].shape
        stacked = weights[0].reshape(samples * units, features)
        ready = [] if self.exact is None else self.exact.weights(stacked)
        sums = weights[0].sum(2)
        first, *others = self.blocks
        ways = [block.after(samples) for block in others]
        for i, x in enumerate(self.batches):
            if self.exact is not None and isinstance(x, ByteInputs):
                out = self.exact.multiply(i, ready).T.view(samples, units, len(x))
                out = first.after(samples, x.scale, x.shift * sums)(out)
            else:
                out = stacked.mm((x.floats() if isinstance(x, ByteInputs) else x).T).view(samples, units, len(x))
                out = first.after(samples)(out)
            for after, weight in zip(ways, weights[1:], strict=True):
                out = after(weight.bmm(out))
            logits = out.transpose(1, 2)
            yield logits * self.net.logit_scale if self.net.logit_scale != 1 else logits


@dataclass(frozen=True)
class _Block:
    """A linear layer and those between it and the next one, on which inputs lie along the last dimension."""

    linear: nn.Linear
    layers: list[nn.Module]
    folded: Folded | None

    def after(self, samples: int, scale: float = 1.0, shift: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """What follows the product of so many networks, for scale · product + shift, shift (samples, units).

        Returns:
            A function of (samples, units, n), which it uses up.
        """
        folded, one_by_one = self.folded, partial(self._one_by_one, scale=scale, shift=shift)
        if folded is None:
            return one_by_one
        numbers = folded.numbers(samples, scale, None if shift is None else shift.numpy().astype(np.float64))
        return lambda out: folded.apply(out, numbers) if out.dtype == torch.float32 else one_by_one(out)

    def _one_by_one(self, out: Tensor, scale: float, shift: Tensor | None) -> Tensor:
        if shift is not None:
            out = torch.add(shift.unsqueeze(2), out, alpha=scale, out=out)
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm1d):
                out = _batch_norm(layer, out)
            elif isinstance(layer, nn.LayerNorm):
                out = layer(out.transpose(1, 2)).transpose(1, 2)
            else:
                out = out.relu_() if isinstance(layer, nn.ReLU) else layer(out)
        return out


def _blocks(net: MLP) -> list[_Block]:
    found: list[tuple[nn.Linear, list[nn.Module]]] = []
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            found.append((layer, []))
        elif found and not isinstance(layer, nn.Dropout | nn.Flatten):
            found[-1][1].append(layer)
    return [
        _Block(linear, between, fold(between, linear.out_features) if linear.weight.device.type == "cpu" else None)
        for linear, between in found
    ]


def _batch_norm(layer: nn.BatchNorm1d, out: Tensor) -> Tensor:
    """(c, features, n) normalised by the running statistics, or each sample's batch by its own where there are none."""
    if layer.running_mean is not None and layer.running_var is not None:
        scale = (layer.running_var + layer.eps).rsqrt()
        return out.sub_(layer.running_mean.unsqueeze(1)).mul_(scale.unsqueeze(1))
    if out.shape[2] > 1:
        out.sub_(out.mean(2, keepdim=True))
        variance = out.square().mean(2, keepdim=True)  # torch.var_mean takes seven times as long
        return out.mul_((variance + layer.eps).rsqrt())
    raise ValueError("a batch of one has no statistics of its own: predict two inputs or more at a time")
