"""What STE, PMF and LR-net share: a step of Adam, and the checks of its options."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clbinn.checks import check_at_least, check_between, check_count

__all__ = ["adam_step", "check_adam"]


def check_adam(group: dict[str, Any]) -> None:
    """Raise ValueError for options of Adam that are out of range."""
    check_count("step", group["step"], 0)
    check_at_least("lr", group["lr"], 0)
    check_at_least("eps", group["adam_eps"], 0)
    if not isinstance(group["betas"], Sequence) or len(group["betas"]) != 2:
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
    """One step of torch's Adam in place, fused to one pass over memory.

    Args:
        values: What is learned.
        gradients: Of the same shapes.
        exp_avgs: First moments, changed in place.
        exp_avg_sqs: Second moments, changed in place.
        group: Holds lr, betas, adam_eps and step, the number of steps done before.
        weight_decay: Factor of the L2 term, added to the gradient.
    """
    done = float(group["step"] + 1)
    steps = [
        torch.full((), done, dtype=torch.float32, device=value.device) for value in values
    ]  # filled there, not sent
    torch._fused_adam_(  # torch.optim's functions around it take as long as it does for 50,000 numbers
        list(values),
        list(gradients),
        list(exp_avgs),
        list(exp_avg_sqs),
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=weight_decay,
        eps=group["adam_eps"],
        amsgrad=False,
        maximize=False,
    )
