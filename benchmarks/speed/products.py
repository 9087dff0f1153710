"""The limit of a training step: its matrix products and convolutions, with nothing around them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["training_products"]

Call = Callable[[], Any]


def training_products(net: nn.Module, x: Tensor) -> Call:
    """A function that runs the products of one forward and backward pass of `net` at inputs like `x`.

    For each layer: the output, the gradient in the weights, and, but for the first, the gradient in the input.
    """
    calls: list[Call] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        of = _linear if isinstance(layer, nn.Linear) else _convolution
        calls.extend(of(layer, inputs[0].detach().clone(), torch.randn_like(output), first=not calls))

    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()

    def run() -> None:
        with torch.no_grad():
            for call in calls:
                call()

    return run


def _linear(layer: nn.Linear, x: Tensor, gradient: Tensor, first: bool) -> list[Call]:
    weight = layer.weight.detach().clone()
    out, to_weight, to_input = torch.empty_like(gradient), torch.empty_like(weight), torch.empty_like(x)
    calls: list[Call] = [
        lambda: torch.mm(x, weight.T, out=out),
        lambda: torch.mm(gradient.T, x, out=to_weight),
        lambda: torch.mm(gradient, weight, out=to_input),
    ]
    return calls[:2] if first else calls


def _convolution(layer: nn.Conv2d, x: Tensor, gradient: Tensor, first: bool) -> list[Call]:
    weight = layer.weight.detach().clone()
    where = (layer.stride, layer.padding, layer.dilation)
    wanted = [not first, True, False]  # gradients in input, weights, bias
    return [
        lambda: torch.conv2d(x, weight, None, *where, layer.groups),
        lambda: torch.ops.aten.convolution_backward(
            gradient, x, weight, None, *where, False, [0, 0], layer.groups, wanted
        ),
    ]
