"""The convolutional networks of the appendix: Table 8, and LR-net's two (Table 11)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from clbinn.nn.lean import Dropout
from clbinn.nn.lrnet import to_stochastic

__all__ = ["CNN", "lrnet_cifar10", "lrnet_mnist", "table8"]

Order = Literal["relu_norm", "norm_relu"]
Stochastic = Literal["none", "binary", "ternary"]


class CNN(nn.Module):
    """Blocks of convolutions, each block ending in 2 × 2 max pooling, then fully connected layers.

    Convolutions keep the size (padding "same"). `relu_norm` is the order that Table 8 prints:
    convolution, ReLU, pooling, batch normalisation; `norm_relu` is that of the authors' code: convolution, pooling,
    batch normalisation, ReLU. The last layer has as many units as classes and is normalised as well.

    Args:
        input_shape: (channels, height, width) of one image.
        out_features: Number of classes.
        blocks: Channels of each convolution, one list a block.
        hidden: Units of the fully connected layers before the last.
        kernel_size: Of all convolutions; odd.
        order: See above.
        learned_norm: Gain and bias in the batch normalisations are learned. The appendix keeps them at 1 and 0.
        last: "norm" is a binary layer without bias and a batch normalisation; "bias" a layer with bias and no more
            (LR-net's own, which stays real valued).
        dropout: Probability of dropping a unit before the last layer, in [0, 1).
        momentum: Of the convolutions' running statistics. The fully connected layers' are torch's default 0.1.

    Shape:
        (n, channels, height, width) to logits (n, out_features).
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        out_features: int,
        blocks: Sequence[Sequence[int]] = ((128, 128), (256, 256), (512, 512)),
        hidden: Sequence[int] = (1024, 1024),
        kernel_size: int = 3,
        order: Order = "relu_norm",
        learned_norm: bool = False,
        last: Literal["norm", "bias"] = "norm",
        dropout: float = 0.0,
        momentum: float = 0.2,
    ) -> None:
        super().__init__()
        channels, height, width = _checked_shape(input_shape, len(blocks))
        if order not in ("relu_norm", "norm_relu"):
            raise ValueError(f"order must be relu_norm or norm_relu; it is {order!r}")
        if last not in ("norm", "bias"):
            raise ValueError(f"last must be norm or bias; it is {last!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); it is {dropout!r}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the image's size; it is {kernel_size}")
        layers: list[nn.Module] = []
        for block in blocks:
            for position, units in enumerate(block, 1):
                conv = nn.Conv2d(channels, units, kernel_size, padding=kernel_size // 2, bias=False)
                norm = nn.BatchNorm2d(units, momentum=momentum, affine=learned_norm)
                layers += [conv, *_after(norm, order, pool=position == len(block))]
                channels = units
        layers.append(nn.Flatten())
        features = channels * (height >> len(blocks)) * (width >> len(blocks))
        for units in hidden:
            norm1d = nn.BatchNorm1d(units, affine=learned_norm)
            layers += [nn.Linear(features, units, bias=False), *_after(norm1d, order, pool=False)]
            features = units
        if dropout:
            layers.append(Dropout(dropout))
        layers.append(nn.Linear(features, out_features, bias=last == "bias"))
        if last == "norm":
            layers.append(nn.BatchNorm1d(out_features, affine=learned_norm))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) to logits (n, classes)."""
        logits: Tensor = self.layers(images)
        return logits


def table8(input_shape: Sequence[int] = (3, 32, 32), out_features: int = 10, order: Order = "relu_norm") -> CNN:
    """The network of all CIFAR experiments (Table 8): 6 convolutions of 3 × 3 and 3 fully connected layers."""
    return CNN(input_shape, out_features, order=order)


def lrnet_mnist(
    input_shape: Sequence[int] = (1, 28, 28),
    out_features: int = 10,
    *,
    order: Order = "relu_norm",
    original: bool = False,
    stochastic: Stochastic = "none",
) -> nn.Module:
    """LR-net's MNIST network, 32C5-MP2-64C5-MP2-512FC-10 (Shayer et al. 2018).

    As the appendix uses it (B.3): all layers binary, batch normalisation after the fully connected layers too, no
    learned gain or bias, no dropout.

    Args:
        input_shape: (channels, height, width) of one image.
        out_features: Number of classes.
        order: As in `CNN`.
        original: LR-net's own: learned gain and bias, dropout 0.5 before the last layer, which has a bias and no
            normalisation.
        stochastic: `binary` or `ternary` replaces all layers but that one by random weights, for `clbinn.optim.LRNet`.

    Raises:
        ValueError: Images that are too small, or an unknown `stochastic`.
    """
    return _lrnet(input_shape, out_features, ((32,), (64,)), (512,), 5, order, original, stochastic)


def lrnet_cifar10(
    input_shape: Sequence[int] = (3, 32, 32),
    out_features: int = 10,
    *,
    order: Order = "relu_norm",
    original: bool = False,
    stochastic: Stochastic = "none",
) -> nn.Module:
    """LR-net's CIFAR-10 network, 2×128C3-MP2-2×256C3-MP2-2×512C3-MP2-1024FC-10; arguments as in `lrnet_mnist`."""
    blocks = ((128, 128), (256, 256), (512, 512))
    return _lrnet(input_shape, out_features, blocks, (1024,), 3, order, original, stochastic)


def _lrnet(
    input_shape: Sequence[int],
    out_features: int,
    blocks: Sequence[Sequence[int]],
    hidden: Sequence[int],
    kernel_size: int,
    order: Order,
    original: bool,
    stochastic: Stochastic,
) -> nn.Module:
    network = CNN(
        input_shape,
        out_features,
        blocks,
        hidden,
        kernel_size,
        order="norm_relu" if original else order,
        learned_norm=original,
        last="bias" if original else "norm",
        dropout=0.5 if original else 0.0,
    )
    if stochastic not in ("none", "binary", "ternary"):
        raise ValueError(f"stochastic must be none, binary or ternary, got {stochastic!r}")
    return network if stochastic == "none" else to_stochastic(network, ternary=stochastic == "ternary")


def _after(norm: nn.Module, order: Order, pool: bool) -> list[nn.Module]:
    pooling: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    return [nn.ReLU(), *pooling, norm] if order == "relu_norm" else [*pooling, norm, nn.ReLU()]


def _checked_shape(input_shape: Sequence[int], poolings: int) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(f"a CNN needs images of shape (channels, height, width); the data's shape is {input_shape}")
    channels, height, width = torch.Size(input_shape)
    if min(height, width) >> poolings < 1:
        raise ValueError(f"images of {height} × {width} are too small for {poolings} poolings of 2 × 2")
    return channels, height, width
