"""All inputs of a resident test set at once, where the loader holds one."""

from typing import Any

from torch import Tensor, nn

from clbinn.benchmarks.loading import TensorLoader
from clbinn.nn.many import ByteInputs
from clbinn.nn.mlp import MLP

__all__ = ["resident_inputs"]


def resident_inputs(loader: Any, net: nn.Module) -> Tensor | ByteInputs | None:
    """The inputs of a loader in their order, as bytes if they are bytes and the network is an MLP.

    Args:
        loader: Anything that gives mini-batches.
        net: The network that they are for.

    Returns:
        Inputs (n, …), or None for another loader than a `TensorLoader` of one task in order.
    """
    if not isinstance(loader, TensorLoader) or loader.shuffle or len(loader.data.parts) != 1:
        return None
    (task,), index = loader.data.parts, loader.data.index
    raw = task.materialise(loader.device)
    if index is not None:
        raw = raw.index_select(0, index)
    scale, shift = task.affine()
    if type(net) is MLP and not raw.is_floating_point() and isinstance(scale, float) and isinstance(shift, float):
        return ByteInputs(raw.flatten(1), scale, shift)
    return task.normalise(raw)
