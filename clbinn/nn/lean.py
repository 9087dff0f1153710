"""Two of torch's layers without what makes them slow on a CPU.

Batch normalisation of small layers costs torch more for checks and bookkeeping than for the arithmetic; for dropout it
draws numbers one by one on many processors, which takes longer than all other element-wise work of a large layer.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clbinn.compiled import compiled

__all__ = ["BatchNorm1d", "Dropout"]


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` without gain and bias, bit for bit, that does not count batches of rows.

    Torch reads the count, `num_batches_tracked`, for a cumulative average (`momentum=None`) alone; then, for inputs of
    other dimensions and while a graph is compiled, this is torch's in every way. It can't be scripted or traced by fx.

    Args:
        num_features: Features of a row.
        eps: Added to the variance.
        momentum: Weight of a batch in the running statistics, in [0, 1]; None is a cumulative average.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features) → the same shape; ValueError for a batch of one in training."""
        mean, variance = self._buffers["running_mean"], self._buffers["running_var"]
        own = self.training or mean is None
        special = not self.track_running_stats or torch.compiler.is_compiling() or x.dim() != 2
        if self.momentum is None or special or (own and len(x) == 1):
            out: Tensor = super().forward(x)
            return out
        return torch.batch_norm(
            x, None, None, mean, variance, own, self.momentum, self.eps, torch.backends.cudnn.enabled
        )


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, whose mask comes on a CPU from one number of torch's generator, spread by SplitMix64.

    For anything but float32 on a CPU, while a graph is compiled or traced and under `torch.func` it is torch's. It
    can't be scripted.

    Args:
        p: Probability of a zero, in [0, 1].
        inplace: As in torch, whose way it then goes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same; in training each number is zero or divided by 1 - p."""
        if not self.training or self.inplace or not 0 < self.p < 1 or not _plain(x):
            return super().forward(x)
        seed = torch.empty((), dtype=torch.int64, device="cpu").random_(-(2**63), None)
        mask = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _keep(np.uint64(seed.item() % 2**64), mask.view(-1).numpy(), float(self.p))
        return x * mask


def _plain(x: Tensor) -> bool:
    """Whether a mask can be written into memory: not where torch follows its operations alone."""
    followed = torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active()
    dense = x.device.type == "cpu" and x.dtype == torch.float32 and x.layout == torch.strided and not x.is_nested
    return dense and not followed and type(x) in (Tensor, nn.Parameter)


_GOLDEN, _MIX, _MIX_AGAIN = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled
def _keep(seed: np.uint64, out: NDArray[Any], drop: float) -> None:
    """Fills `out` with 0, at a rate `drop`, and 1 / (1 - drop), by the upper halves of SplitMix64 (Steele 2014)."""
    dropped, kept = np.float32(0), np.float32(1 / (1 - drop))
    threshold = np.uint64(drop * 2.0**32)
    for i in range(out.size):
        seed += _GOLDEN
        word = (seed ^ (seed >> np.uint64(30))) * _MIX
        word = (word ^ (word >> np.uint64(27))) * _MIX_AGAIN
        out[i] = kept if ((word ^ (word >> np.uint64(31))) >> np.uint64(32)) >= threshold else dropped
