r"""PMF: proximal mean-field, a softmax that hardens while it learns (Ajanthan et al. 2019).

Every weight has two real logits, a₊ and a₋, for the values +1 and -1. One step:

    u = softmax(β a),  w = u₊ - u₋ = tanh(β (a₊ - a₋) / 2)     the training weight, in (-1, 1)
    ∂ℓ/∂a = β (diag(u) - u uᵀ) q g,  g = ∂ℓ/∂w, q = (1, -1)    exact: a₊ gets β/2 (1 - w²) g, a₋ its negative
    a ← Adam(a, ∂ℓ/∂a)
    β ← min(ρ β, β_max) at the first step and every `rho_interval` steps

The network predicts with the rounded weights, sign(a₊ - a₋): they are what a model is selected by.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from clbinn.checks import check_at_least, check_choice, check_count
from clbinn.optim import _loops
from clbinn.optim._adam import adam_step, check_adam
from clbinn.optim._flat import FlatState, Piece, State, write_signs
from clbinn.optim._noise import tanh
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["PMF", "exact_gradient", "identity_gradient"]


def exact_gradient(soft: Tensor, gradient: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """β (diag(u) - u uᵀ) q g, for the logits of +1 and of -1.

    Args:
        soft: w = u₊ - u₋, any shape.
        gradient: g, of the same shape.
        beta: β > 0.
    """
    to_plus = torch.mul(soft, soft).neg_().add_(1).mul_(beta / 2).mul_(gradient)
    return to_plus, to_plus.neg()


def identity_gradient(soft: Tensor, gradient: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The authors' variant, β (I - v vᵀ) q g with v = softmax(β u); arguments as in `exact_gradient`.

    The identity in place of diag(u) lets a gradient through to certain weights as well.
    """
    again = tanh(soft * (beta / 2))  # v₊ - v₋
    v_plus, v_minus = (1 + again) / 2, (1 - again) / 2
    return beta * gradient * (1 - v_plus * again), beta * gradient * (-1 - v_minus * again)


_MOMENTS = ("exp_avg", "exp_avg_sq")
GRADIENTS = {"exact": exact_gradient, "identity": identity_gradient}


class PMF(BinaryOptimizer):
    """Learns two logits a weight and hardens their softmax step by step; see the module's equations.

    Logits start by Glorot's uniform rule, those of vectors (biases) normal with standard deviation 0.1.

    Args:
        params: Parameters or parameter groups. All of them become binary: hand over only those that should.
        lr: Adam's step size (Table 9: 1e-3 for MNIST, times 0.2 every 7,000 iterations).
        rho: ρ ≥ 1, growth of β (Table 9: 1.2 for MNIST, 1.05 for CIFAR).
        rho_interval: Steps between growths, at least 1. Table 9 does not say; 100 is the authors' code's default.
        beta_max: Where β stays, at least 1; β starts at 1.
        jacobian: `exact`, or `identity` as in the authors' code.
        betas: Adam's decay rates, each in [0, 1).
        eps: Adam's term in the denominator.
        weight_decay: Factor of the L2 term on the logits, at least 0.
        seed: Of the start; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range.
        TypeError: Parameters of half precision or of mixed types.

    Example:
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> opt = PMF(net.parameters(), lr=0.1, seed=0)
        >>> with opt.sampled_params():
        ...     torch.nn.functional.cross_entropy(net(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
        >>> opt.step()
        >>> bool((net.weight.abs() == 1).all())
        True
    """

    _optional: ClassVar[set[str]] = {f"minus_{name}" for name in _MOMENTS}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        rho: float = 1.2,
        rho_interval: int = 100,
        beta_max: float = 1e4,
        jacobian: Literal["exact", "identity"] = "exact",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "rho_interval": rho_interval,
            "beta_max": beta_max,
            "jacobian": jacobian,
            "betas": betas,
            "adam_eps": eps,
            "weight_decay": weight_decay,
            "beta": 1.0,
            "step": 0,
        }
        super().__init__(params, defaults, seed)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam(group)
        check_at_least("beta", group["beta"], 1)
        check_at_least("rho", group["rho"], 1)
        check_count("rho_interval", group["rho_interval"], 1)
        check_at_least("beta_max", group["beta_max"], 1)
        check_at_least("weight_decay", group["weight_decay"], 0)
        check_choice("jacobian", group["jacobian"], GRADIENTS)

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        plus = self._initial_logits(flat)
        state = {"plus": plus, "minus": self._initial_logits(flat)}
        sides = ("plus",) if _mirrored(group) else ("plus", "minus")
        return state | {f"{side}_{name}": torch.zeros_like(plus) for side in sides for name in _MOMENTS}

    def _initial_logits(self, flat: FlatState) -> Tensor:
        uniform = self.noise.uniform(flat.numel, flat.dtype)
        for view in flat.views(uniform):
            if view.dim() < 2:
                view.copy_(0.1 * math.sqrt(2) * torch.erfinv(2 * view - 1))
            else:
                fans = (view.shape[0] + view.shape[1]) * math.prod(view.shape[2:])
                view.mul_(2).sub_(1).mul_(math.sqrt(6 / fans))
        return uniform

    def _training_weights(self, group: dict[str, Any], piece: Piece) -> None:
        if piece.arrays:
            state = piece.arrays.state
            _loops.soft_weights(state["plus"], state["minus"], piece.arrays.weights, group["beta"] / 2)
        else:
            piece.weights.copy_(_soft(piece.state, group["beta"]))

    def _whole(self, entry: State) -> State:
        if "minus_exp_avg" in entry or not entry:
            return entry
        mirrored = {"minus_exp_avg": entry["plus_exp_avg"].neg(), "minus_exp_avg_sq": entry["plus_exp_avg_sq"].clone()}
        return {**entry, **mirrored}

    def _begin_update(self, group: dict[str, Any], flat: FlatState) -> None:
        if not _mirrored(group):  # now, if a schedule brought in what tells the logits apart
            flat.tensors = self._whole(flat.tensors)

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        state = piece.state
        if piece.arrays and "minus_exp_avg" not in state:
            self._step_piece(group, piece, piece.gradient)
            return
        soft = _soft(state, group["beta"])
        to_plus, to_minus = GRADIENTS[group["jacobian"]](soft, piece.gradient, group["beta"])
        if "minus_exp_avg" in state:
            first, second = ([state[f"{side}_{name}"] for side in ("plus", "minus")] for name in _MOMENTS)
            adam_step([state["plus"], state["minus"]], [to_plus, to_minus], first, second, group, group["weight_decay"])
        else:
            before = state["plus"].clone()
            adam_step([state["plus"]], [to_plus], [state["plus_exp_avg"]], [state["plus_exp_avg_sq"]], group)
            state["minus"].add_(before.sub_(state["plus"]))

    def _step_piece(self, group: dict[str, Any], piece: Piece, slope: Tensor) -> None:
        """In one pass over memory where that can be."""
        if not piece.arrays or "minus_exp_avg" in piece.state:
            super()._step_piece(group, piece, slope)
            return
        state, (beta_1, beta_2), t = piece.arrays.state, group["betas"], group["step"] + 1
        _loops.pmf_step(
            slope.numpy(force=True),  # detach() and numpy() in one call
            state["plus"],
            state["minus"],
            state["plus_exp_avg"],
            state["plus_exp_avg_sq"],
            piece.arrays.weights,
            float(group["beta"] / 2),
            (float(1 - beta_1), float(beta_2)),
            float(group["lr"] / (1 - beta_1**t)),
            1 / math.sqrt(1 - beta_2**t),
            float(group["adam_eps"]),
        )

    def _end_update(self, group: dict[str, Any], flat: FlatState) -> None:
        if group["step"] % group["rho_interval"] == 0:
            group["beta"] = min(group["beta"] * group["rho"], group["beta_max"])
        super()._end_update(group, flat)

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        write_signs(piece, "plus", minus="minus")


def _mirrored(group: dict[str, Any]) -> bool:
    """Whether what Adam keeps of a₋ is that of a₊, its first moment with the other sign, and is left out."""
    return group["jacobian"] == "exact" and not group["weight_decay"]


def _soft(state: State, beta: float) -> Tensor:
    """w = tanh(β (a₊ - a₋) / 2)."""
    return tanh(torch.sub(state["plus"], state["minus"]).mul_(beta / 2))
