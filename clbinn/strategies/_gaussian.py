"""Mean-field Gaussian layers: every weight has a mean and a log-variance, and a prior of its own.

The layers see S weight samples at once. They fold the samples into the batch: rows `s * n … (s + 1) * n - 1` of an
activation belong to sample s, so that whatever stands between the layers (activations, dropout, heads chosen by task)
works as it is. In a plain chain of layers the first one gets the n rows of the mini-batch and does not copy them. Where
heads are chosen by task, each gets its task's rows, as many for every sample.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clbinn.errors import UserError
from clbinn.nn import MLP, MeanFieldLinear

__all__ = [
    "Draw",
    "GaussianLinear",
    "gaussian_kl",
    "gaussian_layers",
    "is_chain",
    "learned_layers",
    "make_gaussian",
    "put_values",
]


@dataclass
class Draw:
    """What the layers of one network draw in the forward pass at hand.

    Attributes:
        samples: S; 0 takes the means, without noise.
        folded: Whether the next layer's inputs hold the samples already; after the first layer they do.
        local: Draw pre-activations instead of weights (local reparameterisation).
        generator: Source of the noise; None is torch's own.
    """

    samples: int = 0
    folded: bool = False
    local: bool = False
    generator: Generator | None = field(default=None, repr=False)

    @contextmanager
    def of(self, samples: int, generator: Generator | None, folded: bool = False) -> Iterator[None]:
        """Inside the block the network draws `samples` outputs for each input, once."""
        before = self.samples, self.folded, self.generator
        self.samples, self.folded, self.generator = samples, folded, generator
        try:
            yield
        finally:
            self.samples, self.folded, self.generator = before

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Standard normal noise of a shape, on the device and in the type of `like`."""
        return torch.randn(*shape, generator=self.generator, device=like.device, dtype=like.dtype)


def gaussian_kl(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """KL(q ‖ p) of independent Gaussians in nats, summed: ½ Σ [ln v₀ - ln v + (v + (m - m₀)²) / v₀ - 1]."""
    log_ratio = log_variance - prior_log_variance
    distance = (mean - prior_mean).square() * torch.exp(-prior_log_variance)
    return (torch.exp(log_ratio) - log_ratio + distance - 1).sum() / 2


class GaussianLinear(nn.Linear):
    """A linear layer with q(w) = N(m, v) for each weight and bias. `weight` and `bias` are the means.

    Args:
        layer: The layer whose weights become the means. Its parameters are taken over, not copied.
        draw: Shared by all layers of a network.
        log_variance: Initial ln v.
        prior_variance: Variance of the first task's prior, which has mean 0.
    """

    weight_log_variance: Tensor
    bias_log_variance: Tensor
    learned: Tensor  # whether a training step has used the layer: a head of a task to come keeps the first prior

    def __init__(self, layer: nn.Linear, draw: Draw, log_variance: float = -6.0, prior_variance: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.draw = draw
        self.register_buffer("learned", torch.tensor(False))
        for name, mean in self.means():
            self.register_parameter(f"{name}_log_variance", nn.Parameter(torch.full_like(mean, log_variance)))
            self.register_buffer(f"{name}_prior_mean", torch.zeros_like(mean))
            self.register_buffer(f"{name}_prior_log_variance", torch.full_like(mean, math.log(prior_variance)))

    def means(self) -> list[tuple[str, Tensor]]:
        """Name and mean of weight and, if there is one, bias."""
        return [(name, mean) for name, mean in self.named_parameters() if name in ("weight", "bias")]

    def kl(self) -> Tensor:
        """KL(q ‖ prior) in nats, summed over the layer."""
        return torch.stack(
            [
                gaussian_kl(
                    mean,
                    self.get_parameter(f"{name}_log_variance"),
                    self.get_buffer(f"{name}_prior_mean"),
                    self.get_buffer(f"{name}_prior_log_variance"),
                )
                for name, mean in self.means()
            ]
        ).sum()

    @torch.no_grad()
    def carry_prior(self) -> None:
        """The posterior becomes the prior of the next task."""
        for name, mean in self.means():
            self.get_buffer(f"{name}_prior_mean").copy_(mean)
            self.get_buffer(f"{name}_prior_log_variance").copy_(self.get_parameter(f"{name}_log_variance"))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `(S * n, …, out_features)` for inputs `(n or S * n, …, in_features)`; `(n, …)` for S = 0."""
        if self.draw.samples == 0:
            return F.linear(x, self.weight, self.bias)
        if torch.is_grad_enabled():
            self.learned.fill_(True)  # without a look first, which a GPU would wait for
        folded, self.draw.folded = self.draw.folded, True
        return (self._local if self.draw.local else self._sampled)(x, folded)

    def _sampled(self, x: Tensor, folded: bool) -> Tensor:
        """One weight matrix a sample, shared by its rows."""
        samples, inner = self.draw.samples, x.shape[1:-1]
        noise = self.draw.normal(samples, *self.weight.shape, like=x)
        weight = torch.addcmul(self.weight, torch.exp(self.weight_log_variance / 2), noise)
        if folded:
            out = torch.bmm(x.reshape(samples, -1, self.in_features), weight.transpose(1, 2))
        else:  # all samples share the input: one wide product is faster than S of them
            wide = x.reshape(-1, self.in_features) @ weight.view(-1, self.in_features).t()
            out = wide.view(-1, samples, self.out_features).transpose(0, 1)
        if self.bias is not None:
            noise = self.draw.normal(samples, 1, self.out_features, like=x)
            out = out + torch.addcmul(self.bias, torch.exp(self.bias_log_variance / 2), noise)
        return out.reshape(-1, *inner, self.out_features)

    def _local(self, x: Tensor, folded: bool) -> Tensor:
        """A pre-activation is N(m·x, v·x²), drawn anew for each row and sample."""
        mean = F.linear(x, self.weight, self.bias)
        variance = F.linear(
            x.square(),
            torch.exp(self.weight_log_variance),
            None if self.bias is None else torch.exp(self.bias_log_variance),
        )
        shape = *x.shape[1:-1], self.out_features
        noise = self.draw.normal(*(() if folded else (self.draw.samples,)), len(x), *shape, like=x)
        # The square root has no slope at 0, where an input of zeros leads in a layer without bias.
        return torch.addcmul(mean, torch.sqrt(variance + 1e-12), noise).reshape(-1, *shape)


def make_gaussian(model: nn.Module, draw: Draw, log_variance: float, prior_variance: float) -> nn.Module:
    """The network with each linear layer made Gaussian; Gaussian layers that it has stay as they are.

    Raises:
        UserError: A layer of another kind has parameters, which would be learned without a posterior.
    """
    if isinstance(model, GaussianLinear):
        return model
    own = {name for name, _ in model.named_parameters(recurse=False)}
    plain = type(model) in (nn.Linear, MeanFieldLinear) and own <= {"weight", "bias"}  # others may do something else
    if isinstance(model, nn.Linear) and plain:
        return GaussianLinear(model, draw, log_variance, prior_variance)
    if own:
        raise UserError(
            f"VCL keeps a posterior for weight and bias of linear layers; {type(model).__name__} has parameters too "
            f"({', '.join(sorted(own))}): use a network of linear layers, without learned normalisation (norm: none)."
        )
    for name, child in model.named_children():
        setattr(model, name, make_gaussian(child, draw, log_variance, prior_variance))
    return model


def is_chain(module: nn.Module) -> bool:
    """Whether a network is known to hand everything from one layer to the next, and nothing past one."""
    inner = list(module.children())
    return not inner or (type(module) in (MLP, nn.Sequential) and all(is_chain(child) for child in inner))


@torch.no_grad()
def put_values(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy parameters and buffers into a module by name; where it grew since, into the leading part."""
    own = module.state_dict()
    for name, value in values.items():
        own[name][tuple(slice(0, size) for size in value.shape)] = value


def gaussian_layers(model: nn.Module) -> dict[str, GaussianLinear]:
    """The Gaussian layers of a network by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, GaussianLinear)}


def learned_layers(model: nn.Module) -> list[GaussianLinear]:
    """The Gaussian layers that a training step has used."""
    return [layer for layer in gaussian_layers(model).values() if layer.learned]
