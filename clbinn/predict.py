"""Prediction with a posterior over weights: the mean over C draws (Eq. 26), or the mode.

    p(y = k | x) ≈ (1/C) Σ_c p(y = k | x, w_c),   w_c ~ q(w)

C = 0 is the mode, w = sign λ. Probabilities are averaged; `average="logits"` averages the network's outputs before the
softmax, as the authors' code does.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from clbinn.checks import check_choice, check_count
from clbinn.nn.batch_norm import BatchNormStatistics, batch_norms, reestimate, use_test_batch
from clbinn.nn.many import ByteInputs, SharedInputs, inputs_at_a_time, takes_many
from clbinn.nn.mlp import MLP
from clbinn.optim._noise import Noise
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["estimate_batch_norm", "predict_log_proba", "predict_proba", "statistics_under_draws"]

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
        ValueError: `mc_samples` negative, an unknown `average` or `batch_norm`, a network without the optimizer's
            parameters, outputs of another shape than (n, classes) with at least two classes, or one input alone to be
            normalised by its own statistics.
        TypeError: Inputs or outputs that are not one tensor.
        RuntimeError: `sampled_params()` is open.
    """
    log_probs = predict_log_proba(
        net, opt, x, mc_samples, average=average, batch_size=batch_size, batch_norm=batch_norm, seed=seed
    )
    if log_probs.shape[1] == 1:
        raise ValueError(
            "the network has one output, whose softmax is 1 whatever the input: give it one for each class, or hold "
            "draws by `with opt.weights(opt.sample_weights()):` and take the sigmoid"
        )
    return log_probs.exp()


@torch.no_grad()
def predict_log_proba(
    net: nn.Module,
    opt: BinaryOptimizer,
    x: Tensor | ByteInputs,
    mc_samples: int = 100,
    *,
    average: Average = "probabilities",
    batch_size: int = 1000,
    batch_norm: Literal["running", "batch"] = "running",
    seed: int | None = None,
    forward: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Log-probabilities of the mean prediction, finite: those below the smallest normal number count as that.

    Arguments and errors are those of `predict_proba`, but that networks with one output are let through, and:

    Args:
        net: See there.
        opt: See there.
        x: May also be bytes with their normalisation, which an MLP multiplies exactly and faster.
        mc_samples: See there.
        average: See there.
        batch_size: See there; of bytes it may be more, where results do not depend on it.
        batch_norm: See there.
        seed: See there.
        forward: Inputs → logits, for networks that take more than the input; None calls `net`.

    Returns:
        Log-probabilities (n, classes).
    """
    check_choice("average", average, get_args(Average))
    check_choice("batch_norm", batch_norm, ("running", "batch"))
    _check(net, opt, x, mc_samples, batch_size)
    device = opt.parameters()[0].device
    noise = opt.noise if seed is None else Noise(seed, device)
    many = forward is None and mc_samples > 0 and takes_many(net, opt.parameters())
    if batch_norm == "batch" and batch_norms(net):
        if min(len(x), batch_size) == 1:
            raise ValueError("a batch of one has no statistics of its own: predict two inputs or more at a time")
        while len(x) % batch_size == 1:  # a last batch of one
            batch_size += 1
    elif many:
        batch_size = inputs_at_a_time(cast(MLP, net), x, batch_size)
    batches = [batch.to(device) for batch in x.split(batch_size)]
    totals: list[Tensor] = []
    with _evaluating(net), use_test_batch(net) if batch_norm == "batch" else nullcontext():
        if many:
            groups = _outputs_together(cast(MLP, net), opt, batches, mc_samples, noise)
        else:
            groups = _outputs(net if forward is None else forward, opt, batches, mc_samples, noise)
        for outputs in groups:
            for i, logits in enumerate(map(_summable, outputs)):
                term = logits.sum(0) if average == "logits" else _sum_of_probabilities(logits)
                totals[i : i + 1] = [totals[i].add_(term) if i < len(totals) else term]
    mean = torch.cat(totals) / max(mc_samples, 1)
    if average == "logits":
        return mean.log_softmax(-1)
    return mean.clamp_min_(torch.finfo(mean.dtype).tiny).log_()


def _summable(logits: Tensor) -> Tensor:
    """(S, n, classes), at least float32: sums of half-precision numbers (autocast) are wrong by more with every draw.

    Raises:
        ValueError: Outputs of another shape.
    """
    if logits.dim() != 3:
        raise ValueError(f"the network must give logits of shape (n, classes), got {tuple(logits.shape[1:])}")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _sum_of_probabilities(logits: Tensor) -> Tensor:
    """Σ_s softmax(logits_s), (S, n, classes) → (n, classes); along columns, as short rows are slow on a CPU."""
    return logits.transpose(1, 2).contiguous().softmax(1).sum(0).T


def _outputs_together(
    net: MLP, opt: BinaryOptimizer, batches: Sequence[Tensor | ByteInputs], mc_samples: int, noise: Noise
) -> Iterator[Iterator[Tensor]]:
    """For each group of draws, the logits (draws, n, classes) of every batch, of all draws at once."""
    shared = SharedInputs(net, batches)
    for weights in _groups_of_draws(opt, mc_samples, noise, shared.networks_at_a_time):
        yield shared.logits(weights)


def _outputs(
    run: Callable[[Tensor], Tensor],
    opt: BinaryOptimizer,
    batches: Sequence[Tensor | ByteInputs],
    mc_samples: int,
    noise: Noise,
) -> Iterator[Iterator[Tensor]]:
    """For each draw, the logits (1, n, classes) of every batch."""

    def output(batch: Tensor | ByteInputs) -> Tensor:
        logits = run(batch.floats() if isinstance(batch, ByteInputs) else batch)
        if not isinstance(logits, Tensor):
            raise TypeError(f"the network must give one tensor of logits, got {type(logits).__name__}")
        return logits.unsqueeze(0)

    for _ in _draws(opt, mc_samples, noise):
        yield map(output, batches)


def _groups_of_draws(
    opt: BinaryOptimizer, mc_samples: int, noise: Noise, together: int, limit: int = 10_000_000
) -> Iterator[list[Tensor]]:
    """C draws, so many together but at most `limit` weights; one tensor (draws, *shape) per parameter."""
    size = max(1, min(together, limit // sum(p.numel() for p in opt.parameters())))
    for start in range(0, mc_samples, size):
        draws = [opt.sample_weights(noise) for _ in range(start, min(start + size, mc_samples))]
        yield [one[0].unsqueeze(0) if len(one) == 1 else torch.stack(one) for one in zip(*draws, strict=True)]


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
        batch_size: Inputs at a time, at most: the batches are made of one size, for all count the same.
        seed: Of the draws.
        forward: Inputs → logits, for networks that take more than the input; None calls `net`.

    Returns:
        The statistics, for `clbinn.nn.batch_norm.set_statistics`.

    Raises:
        ValueError: `mc_samples` negative, no inputs, or a network without the optimizer's parameters.
        TypeError: Inputs that are not a tensor.
        RuntimeError: `sampled_params()` is open.
    """
    _check(net, opt, x, mc_samples, batch_size)
    if not len(x):
        raise ValueError("statistics can't be estimated from no inputs")
    noise = Noise(seed, opt.parameters()[0].device)
    run = net if forward is None else forward
    batches = torch.tensor_split(x, math.ceil(len(x) / batch_size))
    return statistics_under_draws(net, opt, batches, lambda batch: run(batch.to(noise.device)), mc_samples, noise)


def statistics_under_draws(
    net: nn.Module,
    opt: BinaryOptimizer,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    mc_samples: int,
    noise: Noise,
) -> BatchNormStatistics:
    """`estimate_batch_norm` for mini-batches of any form.

    Args:
        net: See there.
        opt: See there.
        batches: Gone through once for each draw; all count the same.
        forward: Runs the network on one of them.
        mc_samples: See there.
        noise: Of the draws.
    """

    def run() -> None:
        for _ in _draws(opt, mc_samples, noise):
            for batch in batches:
                forward(batch)

    with _evaluating(net):
        return reestimate(net, run)


def _draws(opt: BinaryOptimizer, mc_samples: int, noise: Noise) -> Iterator[int]:
    """Goes through C draws, with each one's weights in the module; C = 0 is one turn with the mode."""
    if mc_samples == 0:
        with opt.weights(opt.mode_weights()):  # the module may hold others: λ was set by hand, a block is open
            yield 0
    for draw in range(mc_samples):
        with opt.weights(opt.sample_weights(noise)):
            yield draw


def _check(net: nn.Module, opt: BinaryOptimizer, x: object, mc_samples: int, batch_size: int) -> None:
    check_count("mc_samples", mc_samples, 0)
    check_count("batch_size", batch_size, 1)
    if not isinstance(x, Tensor | ByteInputs):
        raise TypeError(f"inputs must be one tensor (n, …), got {type(x).__name__}")
    if {id(p) for p in net.parameters()}.isdisjoint(id(p) for p in opt.parameters()):
        raise ValueError("the optimizer keeps no weights of this network: is it a copy? Copy both together")
    if opt.sampling:
        raise RuntimeError("prediction inside sampled_params(): leave the block first")


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
