"""What STE, Bop, PMF and LR-net share: the plain gradient, averaged over samples, and a step of Adam."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from clbinn.optim._binary import BinaryOptimizer, FlatState, check_at_least, check_between

__all__ = ["GradientOptimizer", "adam_step", "buffer", "check_adam", "chunks", "signs"]

CHUNK = 2**17


class GradientOptimizer(BinaryOptimizer):
    """Base: sums the gradients of the blocks, and gives their mean."""

    def _collect(self, group: dict[str, Any], flat: FlatState, gradient: Tensor) -> None:
        flat.scratch["gradient"] = flat.scratch["gradient"].add_(gradient) if flat.samples else gradient

    @staticmethod
    def _mean_gradient(flat: FlatState, samples: int) -> Tensor:
        gradient = flat.scratch.pop("gradient")
        return gradient.div_(samples) if samples > 1 else gradient


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat tensors of one length cut into pieces that stay in a CPU's cache through many passes (3 × faster)."""
    size = CHUNK if tensors[0].device.type == "cpu" else max(tensors[0].numel(), 1)
    return zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)


def buffer(flat: FlatState, name: str) -> Tensor:
    """A flat tensor that is used again in each step: a new one of many megabytes costs more than what is done to it."""
    if name not in flat.scratch:
        flat.scratch[name] = torch.empty(flat.numel, dtype=flat.dtype, device=flat.device)
    return flat.scratch[name]


def signs(out: Tensor, latent: Tensor, minus: Tensor | None = None) -> Tensor:
    """`bernoulli.mode` of a flat tensor, or of the difference of two, written into `out`: ±1, with 0 → +1."""
    for piece, value, other in chunks(out, latent, latent if minus is None else minus):
        torch.sign(value if minus is None else value - other, out=piece).add_(0.5).sign_()
    return out


def check_adam(group: dict[str, Any]) -> None:
    """Raise ValueError for options of Adam that are out of range."""
    check_at_least("lr", group["lr"], 0)
    check_at_least("eps", group["adam_eps"], 0)
    if len(group["betas"]) != 2:
        raise ValueError(f"betas must be two numbers, got {group['betas']!r}")
    for beta in group["betas"]:
        check_between("betas", beta, 0, 1)


def adam_step(
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    group: dict[str, Any],
    weight_decay: float = 0.0,
) -> None:
    """One step of torch's Adam in place, fused to one pass over memory; counts in `group["step"]`.

    Args:
        values: what is learned.
        gradients: of the same shapes.
        exp_avgs: first moments, changed in place.
        exp_avg_sqs: second moments, changed in place.
        group: holds lr, betas, adam_eps, step.
        weight_decay: factor of the L2 term, added to the gradient.
    """
    steps = [torch.tensor(float(group["step"]), device=value.device) for value in values]
    adam(
        list(values),
        list(gradients),
        list(exp_avgs),
        list(exp_avg_sqs),
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=weight_decay,
        eps=group["adam_eps"],
        maximize=False,
    )
    group["step"] += 1
