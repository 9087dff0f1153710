"""Linear layers that draw pre-activations instead of weights (local reparameterisation).

A pre-activation is a sum of many independent weights in {-1, +1}, so nearly normal (central limit theorem). With
weights of mean μ, variance 1 - μ²:

    m = x μᵀ,   v = x² (1 - μ²)ᵀ,   z = m + √v ε,   ε standard normal for every output of every input.

The gradient in μ has much less noise than that through sampled weights, which all inputs of a batch share.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MeanFieldLinear"]

VARIANCE_FLOOR = 1e-3  # keeps the gradient of the square root finite where all weights are certain


class MeanFieldLinear(nn.Linear):
    """A fully connected layer whose weight holds means μ in [-1, 1] while training, and ±1 weights in evaluation.

    Used with `clbinn.optim.BayesBiNN(..., training_weights="mean")`, which puts the means there. A bias, if there is
    one, is added as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features): a normal draw in training, the plain product in evaluation."""
        mean = F.linear(x, self.weight, self.bias)
        if not self.training:
            return mean
        variance = F.linear(x.square(), 1 - self.weight.square())
        return mean + variance.add(VARIANCE_FLOOR).sqrt() * torch.randn_like(mean)
