"""STE: the straight-through estimator with Adam inside, as in BinaryConnect (Courbariaux et al. 2015).

Every weight w in {-1, +1} has a latent real weight v. One step:

    w = sign(v), with 0 → +1                      forward
    g = ∂ℓ/∂w, clipped to [-1, 1]                 backward: passed on to v as it is
    v ← clip(Adam(v, g), -1, 1)
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from clbinn.checks import check_positive
from clbinn.optim._adam import adam_step, check_adam
from clbinn.optim._flat import FlatState, Piece, State, write_signs
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["STE"]


class STE(BinaryOptimizer):
    """Learns latent real weights whose signs are the network's weights; see the module's equations.

    A latent weight starts uniform on ±√(1.5 / (fan_in + fan_out)), as in the code of BayesBiNN's authors; what the
    parameters held before does not matter.

    Args:
        params: Parameters or parameter groups. All of them become binary: hand over only those that should.
        lr: Adam's step size; torch's schedulers and `clbinn.optim.schedules` move it (Table 9: 1e-2, cosine).
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's term in the denominator.
        clip_gradient: Largest magnitude of a gradient's element, above 0; None does not clip.
        clip_latent: Largest magnitude of a latent weight, above 0; None does not clip.
        seed: Of the start; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range.
        TypeError: Parameters of half precision or of mixed types.

    Example:
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> opt = STE(net.parameters(), lr=0.1, seed=0)
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
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        clip_gradient: float | None = 1.0,
        clip_latent: float | None = 1.0,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "adam_eps": eps,
            "clip_gradient": clip_gradient,
            "clip_latent": clip_latent,
            "step": 0,
        }
        super().__init__(params, defaults, seed)

    def latent_weights(self) -> list[Tensor]:
        """The real weights behind the signs, in parameter order: views, not copies."""
        self._synchronise()
        return [view for flat in self._flat if flat.params for view in flat.views(flat.tensors["latent"])]

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam(group)
        for name in ("clip_gradient", "clip_latent"):
            if group[name] is not None:
                check_positive(name, group[name])

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        latent = self.noise.uniform(flat.numel, flat.dtype).mul_(2).sub_(1)
        for view in flat.views(latent):
            view.mul_(initial_bound(view))
        return {"latent": latent, "exp_avg": torch.zeros_like(latent), "exp_avg_sq": torch.zeros_like(latent)}

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        gradient, latent = piece.gradient, piece.state["latent"]
        if group["clip_gradient"] is not None:
            gradient.clamp_(-group["clip_gradient"], group["clip_gradient"])
        adam_step([latent], [gradient], [piece.state["exp_avg"]], [piece.state["exp_avg_sq"]], group)
        if group["clip_latent"] is not None:
            latent.clamp_(-group["clip_latent"], group["clip_latent"])

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        write_signs(piece, "latent")


def initial_bound(weight: Tensor) -> float:
    """√(1.5 / (fan_in + fan_out)); a vector (a bias) counts as one input and as many outputs as it is long."""
    if weight.dim() < 2:
        return math.sqrt(1.5 / (1 + max(weight.numel(), 1)))
    receptive = math.prod(weight.shape[2:])
    return math.sqrt(1.5 / ((weight.shape[0] + weight.shape[1]) * receptive))
