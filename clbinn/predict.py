"""Prediction with a posterior over weights: the mean over C draws (Eq. 26), or the mode.

    p(y = k | x) ≈ (1/C) Σ_c p(y = k | x, w_c),   w_c ~ q(w)

C = 0 is the mode, w = sign λ. Probabilities are averaged; `average="logits"` averages the network's outputs before the
softmax, as the authors' code does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from clbinn.nn.batch_norm import BatchNormStatistics, reestimate, use_test_batch
from clbinn.optim._binary import BinaryOptimizer
from clbinn.optim._noise import Noise

__all__ = ["estimate_batch_norm", "predict_log_proba", "predict_proba"]

Average = Literal["probabilities", "logits"]


def predict_proba(
    net: nn.Module,
    opt: BinaryOptimizer,
    x: Tensor,
    mc_samples: int = 100,
    *,
    average: Average = "probabilities",
    batch_size: int = 1000,
    batch_norm: Literal["running", "batch"] = "running",
    seed: int | None = None,
) -> Tensor:
    """Class probabilities of the mean prediction (Eq. 26).

    Args:
        net: The network whose weights `opt` keeps.
        opt: A binary optimizer; one without a posterior predicts with its mode whatever `mc_samples`.
        x: Inputs (n, …), on any device.
        mc_samples: C ≥ 0; 0 is the mode.
        average: `probabilities` (Eq. 26), or `logits` as in the authors' code.
        batch_size: Inputs at a time; results do not depend on it, but for `batch_norm="batch"`.
        batch_norm: `running`: the statistics in the network. `batch`: those of the `batch_size` inputs at hand.
        seed: Of the weight draws; None goes on in the optimizer's stream.

    Returns:
        Probabilities (n, classes), rows summing to 1, on the device of the network.

    Raises:
        ValueError: `mc_samples` negative, or an unknown `average` or `batch_norm`.
    """
    return predict_log_proba(
        net, opt, x, mc_samples, average=average, batch_size=batch_size, batch_norm=batch_norm, seed=seed
    ).exp()


@torch.no_grad()
def predict_log_proba(
    net: nn.Module,
    opt: BinaryOptimizer,
    x: Tensor,
    mc_samples: int = 100,
    *,
    average: Average = "probabilities",
    batch_size: int = 1000,
    batch_norm: Literal["running", "batch"] = "running",
    seed: int | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The logarithm of `predict_proba`, finite where a probability underflows.

    Args:
        net: As there, and so are the others.
        opt: …
        x: …
        mc_samples: …
        average: …
        batch_size: …
        batch_norm: …
        seed: …
        forward: Inputs → logits, for networks that take more than the input; None calls `net`.

    Returns:
        Log-probabilities (n, classes).

    Raises:
        ValueError: As there.
    """
    _check(mc_samples, average, batch_norm)
    forward = net if forward is None else forward
    device = opt.parameters()[0].device
    noise = opt.noise if seed is None else Noise(seed, device)
    total: Tensor | None = None
    with _evaluating(net), use_test_batch(net) if batch_norm == "batch" else nullcontext():
        for _ in _draws(opt, mc_samples, noise):
            outputs = torch.cat([forward(batch.to(device)) for batch in x.split(batch_size)])
            if average == "logits":
                total = outputs if total is None else total.add_(outputs)
            else:
                outputs = outputs.log_softmax(-1)
                total = outputs if total is None else torch.logaddexp(total, outputs)
    assert total is not None
    return (total / max(mc_samples, 1) if average == "logits" else total).log_softmax(-1)


def estimate_batch_norm(
    net: nn.Module,
    opt: BinaryOptimizer,
    x: Tensor,
    mc_samples: int = 10,
    *,
    batch_size: int = 1000,
    seed: int = 0,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> BatchNormStatistics:
    """Running statistics for the weights that predict: averages over draws and batches of training inputs.

    Args:
        net: The network; its own statistics stay.
        opt: The optimizer with the posterior.
        x: Training inputs (n, …).
        mc_samples: Number of draws, ≥ 0; 0 uses the mode.
        batch_size: Inputs at a time.
        seed: Of the draws.
        forward: Inputs → logits, for networks that take more than the input; None calls `net`.

    Returns:
        The statistics, for `clbinn.nn.batch_norm.set_statistics`.
    """
    noise = Noise(seed, opt.parameters()[0].device)

    def run() -> None:
        for _ in _draws(opt, mc_samples, noise):
            for batch in x.split(batch_size):
                (net if forward is None else forward)(batch.to(noise.device))

    with _evaluating(net):
        return reestimate(net, run)


def _draws(opt: BinaryOptimizer, mc_samples: int, noise: Noise) -> Iterator[int]:
    """Goes through C draws, with each one's weights in the module; C = 0 is one turn with the mode."""
    if mc_samples == 0:
        yield 0
    for draw in range(mc_samples):
        with opt.weights(opt.sample_weights(noise)):
            yield draw


def _check(mc_samples: int, average: str, batch_norm: str) -> None:
    if mc_samples < 0:
        raise ValueError(f"mc_samples must be at least 0 (the mode), got {mc_samples}")
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average must be 'probabilities' or 'logits', got {average!r}")
    if batch_norm not in ("running", "batch"):
        raise ValueError(f"batch_norm must be 'running' or 'batch', got {batch_norm!r}: set other statistics first")


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; each module's own mode again after it."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
