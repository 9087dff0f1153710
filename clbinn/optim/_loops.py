"""The optimizers' equations on a CPU, each as one loop over flat arrays of float32 or float64."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbinn.compiled import compiled

__all__ = ["HALF_RANGE", "bayesbinn", "odds", "relaxed_sample", "scaled_gradient", "signs", "words"]

Array = NDArray[Any]

# The next number in float32 after the largest magnitude of a signed 32-bit integer k: u = (k + HALF_RANGE) /
# (2 HALF_RANGE) is in (0, 1), and its odds are finite.
HALF_RANGE = 2.0**31 + 2**8
_BLOCK = 512  # words of 64 bits that are made before they are used: the generator is a chain, what follows is not


@compiled
def words(state: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """The next numbers of SFC64 (Doty-Humphrey's PractRand), those of NumPy's `SFC64.random_raw`.

    Args:
        state: a, b, c and the counter, as NumPy keeps them; changed in place.
        out: Filled.
    """
    a, b, c, counter = state[0], state[1], state[2], state[3]
    for i in range(out.size):
        word = a + b + counter
        counter += np.uint64(1)
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
        out[i] = word
    state[0], state[1], state[2], state[3] = a, b, c, counter


@compiled
def odds(state: NDArray[np.uint64], out: Array) -> None:
    """Draws of u / (1 - u), two of each word; arguments as of `words`."""
    half = np.float32(HALF_RANGE)
    block = np.empty(_BLOCK, np.uint64)
    integers = block.view(np.int32)
    for start in range(0, out.size, 2 * _BLOCK):
        part = out[start : start + 2 * _BLOCK]
        words(state, block[: (part.size + 1) // 2])
        for i in range(part.size):
            k = np.float32(integers[i])
            part[i] = (half + k) / (half - k)


@compiled
def relax(noise: Array, natural: Array, temperature: float) -> None:
    """2δ → (λ + δ) / τ in place."""
    factor = noise.dtype.type(0.5 / temperature)
    for i in range(noise.size):
        noise[i] = (noise[i] + (natural[i] + natural[i])) * factor


def relaxed_sample(natural: Array, out: Array, temperature: float, state: NDArray[np.uint64]) -> None:
    """Out = tanh((λ + δ) / τ), δ logistic noise from the generator's `state`."""
    odds(state, out)
    np.log(out, out=out)
    relax(out, natural, temperature)
    np.tanh(out, out=out)


@compiled
def scale(mean: Array, slope: Array, relaxed: Array, factor: float, eps: float) -> None:
    """μ → s g in place, s = factor (1 - w² + eps) / (1 - μ² + eps).

    With μ and the result as two arguments for one array, the loop would find that they overlap and take one number
    after the other.
    """
    factor, eps = mean.dtype.type(factor), mean.dtype.type(eps)
    one = mean.dtype.type(1)
    for i in range(mean.size):
        numerator = (one - relaxed[i] * relaxed[i]) + eps
        denominator = (one - mean[i] * mean[i]) + eps
        mean[i] = slope[i] * (numerator / denominator * factor)


def scaled_gradient(slope: Array, relaxed: Array, natural: Array, out: Array, factor: float, eps: float) -> None:
    """Out = s g with μ = tanh λ. No two of the arrays may be one."""
    np.tanh(natural, out=out)
    scale(out, slope, relaxed, factor, eps)


@compiled
def bayesbinn(natural: Array, prior: Array, gradient: Array, lr: float, prior_weight: float) -> None:
    """λ ← λ - α (G + ρ (λ - λ0)) in place."""
    towards_prior, lr = natural.dtype.type(lr * prior_weight), natural.dtype.type(lr)
    for i in range(natural.size):
        natural[i] = natural[i] + (towards_prior * (prior[i] - natural[i]) - lr * gradient[i])


@compiled
def signs(latent: Array, out: Array) -> None:
    """±1, with 0 → +1."""
    zero, one = latent.dtype.type(0), out.dtype.type(1)
    for i in range(out.size):
        out[i] = one if latent[i] >= zero else -one
