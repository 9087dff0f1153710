"""Bop: no latent weights at all, only an average of gradients that flips a weight (Helwegen et al. 2019).

Appendix A gives two forms that flip the same weights:

    m ← (1 - γ) m + γ g,   flip where |m| > τ and sign m =  sign w      (22), (23)
    m ← (1 - γ) m - γ g,   flip where |m| > τ and sign m = -sign w      (24), (25)

The first is Helwegen et al.'s own and the one that the optimizer uses; in the second m is the first's with its sign
turned.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from clbinn.checks import check_at_least
from clbinn.optim import _loops
from clbinn.optim._flat import FlatState, Piece, State
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["Bop", "bop", "bop_negative"]


def bop(weight: Tensor, average: Tensor, gradient: Tensor, *, adaptivity: float, threshold: float) -> None:
    """Eq. 22 and 23, in place.

    As w is ±1, the condition for a flip is w m > τ.

    Args:
        weight: w, ±1, any shape; changed in place.
        average: m, of the same shape; changed in place.
        gradient: g, of the same shape.
        adaptivity: γ in [0, 1].
        threshold: τ ≥ 0.
    """
    average.lerp_(gradient, adaptivity)
    # sign(w m - τ) is made -1 at 0 too: a weight that just reaches the threshold stays
    flips = torch.mul(weight, average).sub_(threshold).sign_().sub_(0.5).sign_()
    weight.mul_(flips.neg_())


def bop_negative(weight: Tensor, average: Tensor, gradient: Tensor, *, adaptivity: float, threshold: float) -> None:
    """Eq. 24 and 25, in place; arguments as in `bop`. Here the average follows the negative gradient."""
    average.mul_(1 - adaptivity).sub_(gradient, alpha=adaptivity)
    flip = (average.abs() > threshold) & (average.sign() == -weight.sign())
    weight.copy_(torch.where(flip, -weight, weight))


class Bop(BinaryOptimizer):
    """Flips a weight when the average of its gradients is against it strongly enough; see the module's equations.

    Weights start as random signs. The adaptivity is in the parameter groups: move it by
    `clbinn.optim.schedules.StepDecay(opt, factor, every, key="adaptivity")` (Table 9).

    Args:
        params: Parameters or parameter groups. All of them become binary: hand over only those that should.
        adaptivity: γ in [0, 1]: how quickly the average follows the gradients (Table 9: 1e-5 for MNIST).
        threshold: τ ≥ 0: a larger one flips less (Table 9: 1e-8 for MNIST).
        seed: Of the first signs; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range.
        TypeError: Parameters of half precision or of mixed types.

    Example:
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> opt = Bop(net.parameters(), adaptivity=1e-2, threshold=1e-6, seed=0)
        >>> with opt.sampled_params():
        ...     torch.nn.functional.cross_entropy(net(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
        >>> opt.step()
        >>> bool((net.weight.abs() == 1).all())
        True
    """

    _trains_with_signs: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        adaptivity: float = 1e-4,
        threshold: float = 1e-8,
        seed: int | None = None,
    ) -> None:
        super().__init__(params, {"adaptivity": adaptivity, "threshold": threshold}, seed)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_at_least("threshold", group["threshold"], 0)
        check_at_least("adaptivity", group["adaptivity"], 0)
        if group["adaptivity"] > 1:
            raise ValueError(f"adaptivity must be in [0, 1], got {group['adaptivity']!r}")

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        weight = self.noise.signs(flat.numel, flat.dtype)
        return {"weight": weight, "average": torch.zeros_like(weight)}

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        adaptivity, threshold = float(group["adaptivity"]), float(group["threshold"])
        if piece.arrays:
            weight, average = piece.arrays.state["weight"], piece.arrays.state["average"]
            _loops.bop(weight, average, piece.arrays.gradient, adaptivity, threshold)
        else:
            state = piece.state
            bop(state["weight"], state["average"], piece.gradient, adaptivity=adaptivity, threshold=threshold)

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        piece.weights.copy_(piece.state["weight"])
