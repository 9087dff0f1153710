"""Which statistics batch normalisation uses: the trap of networks whose weights are samples.

Statistics gathered while training belong to relaxed weights; the weights that predict have others. Here they are read,
set, re-estimated for the weights that predict, or replaced by those of the test batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["BatchNormStatistics", "batch_norms", "get_statistics", "reestimate", "set_statistics", "use_test_batch"]

_BatchNorm = nn.modules.batchnorm._BatchNorm
BatchNormStatistics = dict[str, tuple[Tensor, Tensor]]
"""Name of the layer → (running mean, running variance), each of shape (features,)."""


def batch_norms(net: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch normalisations of a network that keep running statistics, by name."""
    return {
        name: module
        for name, module in net.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


def get_statistics(net: nn.Module) -> BatchNormStatistics:
    """A copy of all running statistics."""
    return {
        name: (module.running_mean.clone(), module.running_var.clone())
        for name, module in batch_norms(net).items()
        if module.running_mean is not None and module.running_var is not None
    }


def set_statistics(net: nn.Module, statistics: BatchNormStatistics) -> None:
    """Put statistics back; layers that the statistics do not name keep theirs."""
    layers = batch_norms(net)
    for name, (mean, variance) in statistics.items():
        layer = layers[name]
        if layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)


@contextmanager
def use_test_batch(net: nn.Module) -> Iterator[None]:
    """Inside the block every batch is normalised by its own statistics, in evaluation mode too; none are updated."""
    layers = list(batch_norms(net).values())
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, variance


@torch.no_grad()
def reestimate(net: nn.Module, forward: Callable[[], None]) -> BatchNormStatistics:
    """Statistics as plain averages over everything that `forward` runs through the network; the net keeps its own.

    Args:
        net: The network.
        forward: Runs the network on batches of training inputs, once for each of the weights that will predict. All
            batches count the same: they should be of one size.

    Returns:
        The mean over batches of the batch means and (unbiased) batch variances.
    """
    layers = batch_norms(net)
    if not layers:
        return {}
    kept, momenta = get_statistics(net), {name: layer.momentum for name, layer in layers.items()}
    modes = {name: layer.training for name, layer in layers.items()}
    counts = {name: layer.num_batches_tracked for name, layer in layers.items()}
    for layer in layers.values():
        layer.num_batches_tracked = torch.tensor(0)
        layer.momentum = None  # a cumulative average
        layer.train()
    try:
        forward()
        return get_statistics(net)
    finally:
        for name, layer in layers.items():
            layer.momentum, layer.num_batches_tracked = momenta[name], counts[name]
            layer.train(modes[name])
        set_statistics(net, kept)
