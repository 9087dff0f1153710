"""One MLP with many weight samples at once: what prediction with C = 100 samples spends its time on.

All samples share the inputs, so the first layer of all of them is one matrix product; the later layers are batched
products. Where the inputs are bytes and the weights ±1, the first product is one of integers, exact and faster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from clbinn.nn.byte_products import byte_products
from clbinn.nn.lean import BatchNorm1d, Dropout
from clbinn.nn.mean_field import MeanFieldLinear
from clbinn.nn.mlp import MLP, FanInScale

__all__ = ["ByteInputs", "sample_logits", "takes_many"]

# what `_chunk` knows; anything else goes through the network itself
_LAYERS = {nn.Flatten, nn.Dropout, Dropout, nn.Linear, MeanFieldLinear, nn.BatchNorm1d, BatchNorm1d, nn.LayerNorm}
_LAYERS |= {FanInScale, nn.ReLU, nn.Tanh}
Product = Callable[[Tensor], Tensor]  # weights (units, features) → (units, n)
CHUNK = 1_000_000  # numbers of one intermediate result: about what a core's cache holds
TOGETHER = 2000  # bytes' inputs at least: weights are made ready for each product


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
    """Whether `sample_logits` can run this network: a plain MLP whose only parameters are these, one a layer.

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


def sample_logits(net: MLP, x: Tensor | ByteInputs, weights: Sequence[Tensor]) -> Tensor:
    """The logits of one batch under C sets of weights.

    Args:
        net: The network, in evaluation mode. Batch normalisations without running statistics use the batch's own.
        x: Inputs (n, …), float, or bytes (n, features).
        weights: For each layer ±1 weights (C, out, in), in the order of the network's parameters.

    Returns:
        (C, n, classes), equal to running the network C times up to the rounding of sums.

    Raises:
        ValueError: Inputs of another size, or a batch of one for batch normalisation by the batch's own statistics.
    """
    samples, inputs = len(weights[0]), len(x)
    widest = max(w.shape[1] for w in weights)
    step = max(1, CHUNK // max(inputs * widest, 1))
    flat = x if isinstance(x, ByteInputs) else x.flatten(1)
    features = (flat.raw if isinstance(flat, ByteInputs) else flat).shape[1]
    if features != net.in_features:
        raise ValueError(f"the network takes {net.in_features} numbers for each input, got {features}")
    first = _products_of_bytes(flat) if isinstance(flat, ByteInputs) else partial(torch.mm, mat2=flat.T)
    parts = [_chunk(net, first, [w[start : start + step] for w in weights]) for start in range(0, samples, step)]
    logits = torch.cat(parts).transpose(1, 2)
    return logits * net.logit_scale if net.logit_scale != 1 else logits


def _chunk(net: MLP, first: Product, weights: list[Tensor]) -> Tensor:
    """(c, classes, n): inputs lie along the last dimension throughout, so that no product has to transpose."""
    out: Tensor | None = None
    pending = iter(weights)
    for layer in net.layers:
        if isinstance(layer, nn.Linear):
            weight = next(pending)  # (c, out, in)
            out = _stacked(first, weight) if out is None else weight.bmm(out)
        elif out is None:
            continue  # flattening and dropout before the first product
        elif isinstance(layer, nn.BatchNorm1d):
            out = _batch_norm(layer, out)
        elif isinstance(layer, nn.LayerNorm):
            out = layer(out.transpose(1, 2)).transpose(1, 2)
        elif isinstance(layer, FanInScale | nn.ReLU | nn.Tanh):
            out = out.relu_() if isinstance(layer, nn.ReLU) else layer(out)
    if out is None:
        raise ValueError("the network has no linear layer")
    return out


def _stacked(first: Product, weight: Tensor) -> Tensor:
    """One product for all samples: (c, out, in) → (c, out, n)."""
    samples, units, features = weight.shape
    products = first(weight.reshape(samples * units, features))
    return products.view(samples, units, products.shape[1])


def _products_of_bytes(x: ByteInputs) -> Product:
    """Weight → weight @ xᵀ for x = raw · scale + shift, by way of Σ w raw, which is exact."""
    if x.raw.device.type != "cpu":  # cuBLAS wants sizes in multiples of eight: float products are quick there
        return partial(torch.mm, mat2=x.floats().T)
    exact = byte_products(x.raw)

    def product(weight: Tensor) -> Tensor:
        out = exact(weight)
        return torch.add(weight.sum(1, keepdim=True) * x.shift, out, alpha=x.scale, out=out)

    return product


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
