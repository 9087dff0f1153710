"""BayesBiNN: the Bayesian learning rule for binary weights (Meng, Bachmann & Khan, ICML 2020).

Every weight w in {-1, +1} has a Bernoulli posterior with natural parameter λ. One step, with mean loss ℓ:

    w_k = tanh((λ + ½ logit u_k) / τ)                     relaxed samples, k = 1..S, u uniform
    g_k = ∂ℓ/∂w at w_k                                    by automatic differentiation
    s_k = N (1 - w_k² + eps) / (τ (1 - tanh²λ + eps))     N dw/dμ, μ = tanh λ
    λ  ← (1 - α) λ - α (1/S Σ_k s_k ⊙ g_k - λ0)           λ0 is the prior's natural parameter

The functions that say so are `bernoulli.relaxed_sample`, `bernoulli.gradient_scale` and `bayesbinn` below. In float32
on a CPU the compiled loops of `clbinn.optim._loops` compute the same in fewer passes, and tests hold the two together:
who changes one changes both.

With `training_weights="mean"` the module holds μ instead of a sample, and s_k = N: for layers that draw their
pre-activations themselves (`clbinn.nn.MeanFieldLinear`), which gives the gradient in μ with far less noise.

The fixed point minimises E_q[Σ_i ℓ_i(w)] + KL(q ‖ p0) over the N training points. In continual learning the λ of one
task becomes the λ0 of the next: `carry_prior()`.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from clbinn import bernoulli
from clbinn.checks import check_at_least, check_between, check_choice, check_count, check_positive
from clbinn.optim import _loops
from clbinn.optim._flat import FlatState, Piece, State, write_signs
from clbinn.optim._noise import Noise, tanh
from clbinn.optim.binary import BinaryOptimizer

__all__ = ["BayesBiNN", "TrainingWeights", "bayesbinn"]

TrainingWeights = Literal["relaxed", "mean"]


def bayesbinn(
    natural: Tensor,
    prior_natural: Tensor,
    gradient: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float,
    momentum: float,
    prior_weight: float,
    step: int,
) -> None:
    """One update of λ in place, λ ← λ - α m / (1 - β^t) with m ← β m + (1 - β) (G + ρ (λ - λ0)).

    With β = 0 and ρ = 1 this is λ ← (1 - α) λ - α (G - λ0).

    Args:
        natural: λ, any shape; changed in place.
        prior_natural: λ0, of the same shape.
        gradient: G, the mean over samples of s ⊙ g.
        momentum_buffer: m, changed in place; None for β = 0.
        lr: α.
        momentum: β in [0, 1).
        prior_weight: ρ, 1 in the paper.
        step: t, counted from 1.
    """
    if momentum_buffer is None:
        natural.lerp_(prior_natural, lr * prior_weight).add_(gradient, alpha=-lr)
    else:
        direction = torch.sub(natural, prior_natural).mul_(prior_weight).add_(gradient)
        momentum_buffer.lerp_(direction, 1 - momentum)
        natural.add_(momentum_buffer, alpha=-lr / (1 - momentum**step))


class BayesBiNN(BinaryOptimizer):
    """Learns a Bernoulli posterior over binary weights; see the module's equations.

    Args:
        params: Parameters or parameter groups. All of them become binary: hand over only those that should.
        num_data: N, the number of training points that the loss is a mean over, times any augmentation factor.
        lr: Step size α ≥ 0; schedulers of torch move it.
        temperature: τ > 0 of the relaxation.
        num_samples: S ≥ 1, used by `step(closure)`, one number for all groups; with `sampled_params()` S is the number
            of blocks before a step.
        momentum: β in [0, 1).
        init_natural: λ at the start: ±init_natural with a random sign for each weight, or one tensor per parameter.
        prior_natural: λ0, one number or one tensor per parameter.
        prior_weight: Factor ρ ≥ 0 on λ - λ0; 1 is the paper.
        eps: Term in numerator and denominator of the gradient scale, > 0. At τ = 1e-10 the method rests on it.
        training_weights: What the module holds while gradients are taken. `relaxed`: samples at the temperature, as in
            the paper. `mean`: μ = tanh λ, with the gradient scaled by N alone and no temperature.
        seed: Seed of the optimizer's own random numbers; None takes one from torch's global generator.

    Raises:
        ValueError: An option out of its range, or tensors that do not fit the parameters.
        TypeError: Parameters of half precision or of mixed types.

    Example:
        >>> net = torch.nn.Linear(4, 2, bias=False)
        >>> opt = BayesBiNN(net.parameters(), num_data=100, lr=0.1, temperature=1.0, seed=0)
        >>> with opt.sampled_params():
        ...     torch.nn.functional.cross_entropy(net(torch.ones(3, 4)), torch.tensor([0, 1, 0])).backward()
        >>> opt.step()
        >>> bool((net.weight.abs() == 1).all())
        True
    """

    _KEPT: ClassVar[set[str]] = BinaryOptimizer._KEPT | {"_init", "_prior"}
    _optional: ClassVar[set[str]] = {"momentum"}

    def __init__(
        self,
        params: Iterable[Any],
        num_data: float,
        lr: float = 1e-3,
        temperature: float = 1e-2,
        num_samples: int = 1,
        momentum: float = 0.0,
        init_natural: float | Sequence[Tensor] = 10.0,
        prior_natural: float | Sequence[Tensor] = 0.0,
        prior_weight: float = 1.0,
        eps: float = 1e-10,
        training_weights: TrainingWeights = "relaxed",
        seed: int | None = None,
    ) -> None:
        init, prior = _given("init_natural", init_natural), _given("prior_natural", prior_natural)
        self._init = init if isinstance(init, float) else 0.0
        self._prior = prior if isinstance(prior, float) else 0.0
        check_at_least("init_natural", self._init, 0)
        if not math.isfinite(self._prior):
            raise ValueError(f"prior_natural must be finite, got {self._prior!r}")
        defaults = {
            "num_data": num_data,
            "lr": lr,
            "temperature": temperature,
            "num_samples": num_samples,
            "momentum": momentum,
            "prior_weight": prior_weight,
            "eps": eps,
            "training_weights": training_weights,
            "step": 0,
        }
        super().__init__(params, defaults, seed)
        if not isinstance(init, float):
            _assign("init_natural", self.natural_parameters(), init)
        if not isinstance(prior, float):
            _assign("prior_natural", self.prior_natural_parameters(), prior)
        self.restore()

    def natural_parameters(self) -> list[Tensor]:
        """λ of every parameter, in parameter order: views, not copies."""
        return self._named("natural")

    def prior_natural_parameters(self) -> list[Tensor]:
        """λ0 of every parameter, in parameter order: views, not copies."""
        return self._named("prior_natural")

    def carry_prior(self, params: Tensor | Iterable[Tensor] | None = None) -> None:
        """λ0 ← λ, bit for bit: the next task starts from what this one learned. λ itself stays.

        Args:
            params: The parameters that it is done for; None is all. A head that was never trained keeps its λ0.

        Raises:
            ValueError: One that the optimizer does not have.
        """
        self._synchronise()
        wanted = None if params is None else {id(p) for p in ([params] if isinstance(params, Tensor) else params)}
        if wanted and not wanted <= {id(p) for p in self.parameters()}:
            raise ValueError("carry_prior() was given a parameter that is not the optimizer's")
        for flat in self._flat:
            entries = flat.entries()
            for position, p in enumerate(flat.params):
                if wanted is None or id(p) in wanted:
                    entries[position]["prior_natural"].copy_(entries[position]["natural"])

    def kl_divergence(self) -> float:
        """KL(q ‖ p0) over all weights, in nats."""
        pairs = zip(self.natural_parameters(), self.prior_natural_parameters(), strict=True)
        return sum(float(bernoulli.kl_divergence(q, p).sum()) for q, p in pairs)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; one that doesn't name `num_samples` has that of the others."""
        first = self.param_groups[0] if self.param_groups else self.defaults
        super().add_param_group({"num_samples": first["num_samples"], **param_group})

    # --- the parts of a binary optimizer ---------------------------------------------------------------------------

    def _check_group(self, group: dict[str, Any]) -> None:
        check_count("step", group["step"], 0)
        check_positive("num_data", group["num_data"])
        check_positive("temperature", group["temperature"])
        check_positive("eps", group["eps"])
        check_at_least("lr", group["lr"], 0)
        check_count("num_samples", group["num_samples"], 1)
        check_at_least("prior_weight", group["prior_weight"], 0)
        check_between("momentum", group["momentum"], 0, 1)
        check_choice("training_weights", group["training_weights"], get_args(TrainingWeights))
        if group["num_samples"] != self.param_groups[0]["num_samples"]:
            raise ValueError("num_samples is one number for all parameter groups")

    def _start(self, group: dict[str, Any], flat: FlatState) -> State:
        natural = self.noise.signs(flat.numel, flat.dtype).mul_(self._init)
        state = {"natural": natural, "prior_natural": torch.full_like(natural, self._prior)}
        if group["momentum"]:
            state["momentum"] = torch.zeros_like(natural)
        return state

    def _training_weights(self, group: dict[str, Any], piece: Piece) -> None:
        if group["training_weights"] == "mean":
            tanh(piece.weights.copy_(piece.state["natural"]))
        else:
            _draw_relaxed(piece, group["temperature"], self.noise)

    def _collect(self, group: dict[str, Any], piece: Piece, slope: Tensor) -> None:
        if group["training_weights"] == "mean":
            torch.mul(slope, group["num_data"], out=piece.gradient)
        else:
            _scale(piece, slope, group["num_data"] / group["temperature"], group["eps"])

    def _begin_update(self, group: dict[str, Any], flat: FlatState) -> None:
        if group["momentum"] and "momentum" not in flat.tensors:  # a schedule brought it in
            flat.tensors["momentum"] = torch.zeros_like(flat.tensors["natural"])

    def _update(self, group: dict[str, Any], piece: Piece) -> None:
        natural, prior, buffer = piece.state["natural"], piece.state["prior_natural"], piece.state.get("momentum")
        if piece.arrays and buffer is None:
            state, lr, rho = piece.arrays.state, float(group["lr"]), float(group["prior_weight"])
            _loops.bayesbinn(state["natural"], state["prior_natural"], piece.arrays.gradient, lr, rho)
            return
        options = {name: group[name] for name in ("lr", "momentum", "prior_weight")}
        bayesbinn(natural, prior, piece.gradient, buffer, step=group["step"] + 1, **options)

    def _step_piece(self, group: dict[str, Any], piece: Piece, slope: Tensor) -> None:
        """In one pass over memory where that can be."""
        if not piece.arrays or "momentum" in piece.state or group["training_weights"] == "mean":
            super()._step_piece(group, piece, slope)
            return
        _loops.bayesbinn_step(
            slope.numpy(force=True),  # detach() and numpy() in one call
            piece.arrays.weights,
            piece.arrays.state["natural"],
            piece.arrays.state["prior_natural"],
            float(group["num_data"] / group["temperature"]),
            float(group["eps"]),
            float(group["lr"]),
            float(group["prior_weight"]),
        )

    def _prediction_weights(self, group: dict[str, Any], piece: Piece) -> None:
        write_signs(piece, "natural")

    def _draw(self, group: dict[str, Any], flat: FlatState, noise: Noise) -> Tensor:
        return noise.draw_((2 * flat.tensors["natural"]).sigmoid_())  # `bernoulli.probability`, of one new tensor

    def _named(self, name: str) -> list[Tensor]:
        self._synchronise()
        return [v for flat in self._flat if flat.params for v in flat.views(flat.tensors[name])]


def _draw_relaxed(piece: Piece, temperature: float, noise: Noise) -> None:
    """`bernoulli.relaxed_sample`, in place in the piece's weights."""
    if piece.arrays:
        _loops.relaxed_sample(piece.arrays.state["natural"], piece.arrays.weights, float(temperature), noise.state)
    else:
        noise.logit(out=piece.weights).add_(piece.state["natural"], alpha=2).mul_(0.5 / temperature).tanh_()


def _scale(piece: Piece, slope: Tensor, factor: float, eps: float) -> None:
    """The gradient times `bernoulli.gradient_scale`; 1 and eps are added apart, as 1 + eps is 1 in float32."""
    if piece.arrays:
        state, weights, gradient = piece.arrays.state, piece.arrays.weights, piece.arrays.gradient
        _loops.scaled_gradient(slope.numpy(force=True), weights, state["natural"], gradient, float(factor), float(eps))
        return
    one, mean = slope.new_ones(()), torch.tanh(piece.state["natural"])
    denominator = torch.addcmul(one, mean, mean, value=-1).add_(eps)
    numerator = torch.addcmul(one, piece.weights, piece.weights, value=-1).add_(eps)
    torch.mul(slope, numerator.div_(denominator).mul_(factor), out=piece.gradient)


def _given(name: str, value: Any) -> float | list[Any]:
    """A number, or the tensors one by one."""
    if isinstance(value, Real) or (isinstance(value, Tensor) and value.dim() == 0):
        return float(value)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a number or one tensor per parameter, got {value!r}")
    return list(value)


def _assign(name: str, views: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copy the user's tensors into the state, or say which does not fit."""
    if [v.shape for v in views] != [torch.as_tensor(g).shape for g in given]:
        raise ValueError(f"{name} needs one tensor per parameter, of its shape: {[tuple(v.shape) for v in views]}")
    for view, tensor in zip(views, given, strict=True):
        view.copy_(torch.as_tensor(tensor))
        if not bool(view.isfinite().all()):
            raise ValueError(f"{name} must be finite")
