"""Batch normalisation of small layers, for which torch's own checks and bookkeeping cost more than the arithmetic."""

import torch
from torch import Tensor, nn

__all__ = ["BatchNorm1d"]


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
