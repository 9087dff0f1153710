"""The diagonal of the empirical Fisher information, from the gradients of single samples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.models.utils import avalanche_forward, is_multi_task_module
from torch import Tensor, nn

__all__ = ["fisher_diagonal", "shares_weights"]

Squares = dict[str, Tensor]
"""Σ_n g_n² for each parameter that needs a gradient, by name."""


def fisher_diagonal(model: nn.Module, x: Tensor, y: Tensor, task: Tensor | None = None) -> Squares:
    """Diagonal of the empirical Fisher information: Σ_n (∂ ln p(y_n | x_n) / ∂θ)², a sum over the n samples given.

    A linear layer that sees sample n once has the gradient δ_n x_nᵀ, and the sum of the squares is (δ²)ᵀ x²: one matrix
    product for all samples. Networks with other layers, or with linear layers that a sample meets more than once, are
    differentiated sample by sample.

    Args:
        model: Gives logits of shape `(n, classes)`; in evaluation mode.
        x: Inputs `(n, …)`.
        y: Labels `(n,)`.
        task: Task labels `(n,)` for networks with one head for each task.

    Returns:
        One tensor of the parameter's shape for each parameter that needs a gradient, by name.
    """
    if not shares_weights(model):
        squares = _of_linear_layers(model, x, y, task)
        if squares is not None:
            return squares
        try:
            return _vectorised(model, x, y, task)
        except RuntimeError:  # torch can't vectorise recurrent layers, nor a forward that looks at its numbers
            pass
    return _one_by_one(model, x, y, task)


def shares_weights(model: nn.Module) -> bool:
    """Whether a parameter has two names."""
    return len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters()))


def _of_linear_layers(model: nn.Module, x: Tensor, y: Tensor, task: Tensor | None) -> Squares | None:
    """The squares of each layer's inputs and of its outputs' gradients, multiplied.

    Returns:
        None if a weight has any other part in the outputs than one product with each sample.
    """
    owners = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    if any(type(m) is not nn.Linear or len(_parameters(m) - {"weight", "bias"}) for m in owners):
        return None
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    with torch.enable_grad(), _recorded(layers.values(), len(y)) as calls:
        loss = F.cross_entropy(avalanche_forward(model, x, task), y, reduction="sum")
    if None in calls.values():
        return None
    outputs = [output for _, output in calls.values()]
    gradients = torch.autograd.grad(loss, [*outputs, *learned.values()], allow_unused=True)
    if any(gradient is not None for gradient in gradients[len(outputs) :]):
        return None  # a use of a weight outside its layer
    deltas = dict(zip(calls, gradients, strict=False))
    squares = {}
    for name, p in learned.items():
        owner, _, kind = name.rpartition(".")
        delta = deltas.get(layers[owner])
        if delta is None:  # a head of another task
            squares[name] = torch.zeros_like(p)
        elif kind == "bias":
            squares[name] = delta.square().sum(0)
        else:
            squares[name] = delta.square().t() @ calls[layers[owner]][0].square()
    return squares


@contextmanager
def _recorded(layers: Iterable[nn.Module], samples: int) -> Iterator[dict[nn.Module, Any]]:
    """Inputs (n, …) and outputs (n, …) of each layer that is called inside the block; None for more than one product.

    The outputs are computed from detached weights: gradients reach them, and the weights by other ways alone.
    """
    calls: dict[nn.Module, Any] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        (x,) = (*inputs, *named.values())
        own = F.linear(x, **{name: p.detach() for name, p in layer.named_parameters()})
        own = own if own.requires_grad else own.requires_grad_()
        once = output.dim() == 2 and len(output) <= samples and layer not in calls
        calls[layer] = (x.detach(), own) if once else None
        return own.clone()  # an activation in place must not change what was kept

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _parameters(module: nn.Module) -> set[str]:
    """Names of a module's own parameters: others than its kind has where a weight is made of them (weight norm)."""
    return {name for name, _ in module.named_parameters(recurse=False)}


def _vectorised(model: nn.Module, x: Tensor, y: Tensor, task: Tensor | None) -> Squares:
    """The gradient of each sample, in pieces of one task that fit into the cache."""
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = dict(model.named_buffers())
    aware = task is not None and is_multi_task_module(model)
    labels = [(label,) for label in task.tolist()] if task is not None and aware else [()] * len(y)

    def loss(values: dict[str, Tensor], one_x: Tensor, one_y: Tensor, label: tuple[int, ...]) -> Tensor:
        out = torch.func.functional_call(model, (values, buffers), (one_x.unsqueeze(0), *label))
        return F.cross_entropy(out, one_y.unsqueeze(0))

    by_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, None))
    squares = {name: torch.zeros_like(p) for name, p in params.items()}
    for label in sorted(set(labels)):
        of_task = torch.tensor([i for i, other in enumerate(labels) if other == label], device=y.device)
        for index in torch.split(of_task, 64):
            for name, gradients in by_sample(params, x[index], y[index], label).items():
                squares[name] += gradients.square().sum(0)
    return squares


def _one_by_one(model: nn.Module, x: Tensor, y: Tensor, task: Tensor | None) -> Squares:
    """A backward pass for each sample."""
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    squares = {name: torch.zeros_like(p) for name, p in learned.items()}
    for i in range(len(y)):
        with torch.enable_grad():
            out = avalanche_forward(model, x[i : i + 1], None if task is None else task[i : i + 1])
            loss = F.cross_entropy(out, y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        for name, gradient in zip(squares, gradients, strict=True):
            if gradient is not None:
                squares[name] += gradient.square()
    return squares
