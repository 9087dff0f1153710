"""Which samples of a task to set aside."""

import torch
from torch import Generator, Tensor

__all__ = ["k_centre", "random_choice"]


def random_choice(count: int, size: int, generator: Generator) -> Tensor:
    """`size` different positions out of `count`, `(size,)`, int64."""
    return torch.randperm(count, generator=generator)[:size]


def k_centre(x: Tensor, size: int, first: int = 0) -> Tensor:
    """Greedy k-centre (Gonzalez 1985): again and again the sample that is farthest from all those chosen.

    Args:
        x: Samples `(n, …)`; distances are Euclidean over all values.
        size: How many to choose, 1 to n.
        first: The sample to begin with.

    Returns:
        Positions `(size,)`, int64, in the order of choice. The largest distance left is at most twice the smallest
        that `size` centres can reach.
    """
    flat = x.flatten(1)
    squares = flat.square().sum(1)
    chosen = [first]
    distance = torch.full_like(squares, float("inf"))
    for _ in range(size - 1):
        centre = chosen[-1]
        to_centre = squares - 2 * flat @ flat[centre] + squares[centre]
        distance = torch.minimum(distance, to_centre)
        distance[centre] = -1.0  # rounding must not bring it back
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)
