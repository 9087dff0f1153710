"""The optimizers' equations on a CPU, as loops over flat arrays of float32.

Functions of one number come first, loops over arrays after them. The compiler puts the first into the second and works
on as many numbers at a time as the processor can, provided that there are no branches and no integers but int32.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbinn.compiled import compiled, fma

__all__ = [
    "HALF_RANGE",
    "LANES",
    "bayesbinn",
    "bayesbinn_step",
    "bop",
    "draw",
    "logistic",
    "pmf_step",
    "relaxed_sample",
    "scaled_gradient",
    "signs",
    "signs_of_difference",
    "soft_weights",
    "tanh",
    "words",
]

Array = NDArray[Any]
Words = NDArray[np.uint64]
Word = Any  # one uint64
Single = Any  # one float32

# Python's own numbers would make these loops double precision.
_0, _HALF, _1, _2 = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
_int, _uint = np.int32, np.uint64

_LN_2, _TWO_OVER_LN_2 = np.float32(math.log(2)), np.float32(2 / math.log(2))
_TO_INTEGER = np.float32(1.5 * 2**23)  # added, it leaves the nearest integer in the last bits
_MANTISSA, _BIAS = np.int32(23), np.int32(127)  # of a float32: bits, and what is added to its exponent
_HALF_BINADE = np.int32(2**22)
_TANH_IS_1 = np.float32(10)

# (eʳ - 1 - r) / r² for |r| ≤ ½ ln 2 and (2 artanh √z / √z - 2) / z for z ≤ 0.045, least maximal errors
_EXP = np.array([0.5, 0.16666542, 0.041666277, 0.008366755, 0.0013946748], np.float32)
_ARTANH = np.array([0.66667086, 0.39944944, 0.30619985], np.float32)

# The next number in float32 after the largest magnitude of a signed 32-bit integer k: u = (k + HALF_RANGE) /
# (2 HALF_RANGE) is in (0, 1), and its odds are finite.
HALF_RANGE = np.float32(2.0**31 + 2**8)
LANES = 64  # generators side by side: each is a chain, whose next word waits for the last
_ROWS = 16  # of words that are made before they are used; all that follows stays in the nearest cache


# --- one number -------------------------------------------------------------------------------------------------------


@compiled
def tanh_of(x: Single) -> Single:
    """tanh x to 2.5 units in the last place, and ±1 where that is the nearest number.

    With 2|x| = n ln 2 + r and s = 2ⁿ: t = e^{2|x|} - 1 = s (eʳ - 1) + (s - 1) and tanh |x| = t / (t + 2).
    """
    size = min(abs(x), _TANH_IS_1)
    shifted = fma(size, _TWO_OVER_LN_2, _TO_INTEGER)
    n = shifted - _TO_INTEGER
    r = fma(-n, _LN_2, size + size)
    series = fma(r, fma(r, fma(r, fma(r, _EXP[4], _EXP[3]), _EXP[2]), _EXP[1]), _EXP[0])
    s = _int(_int(np.float32(shifted).view(np.int32) + _BIAS) << _MANTISSA).view(np.float32)
    t = fma(s, fma(r * r, series, r), s - _1)
    large = size > _HALF  # there 1 - 2 / (t + 2) is rounded once less
    quotient = (-_2 if large else t) / (t + _2)
    result = _1 + quotient if large else quotient
    return result if x >= _0 else -result


@compiled
def logit_of(k: Single) -> Single:
    """ln(u / (1 - u)) of the uniform number that an integer k stands for.

    With u / (1 - u) = a / b = 2ᵉ (1 + s) / (1 - s): e ln 2 + 2 artanh s.
    """
    a, b = HALF_RANGE + k, HALF_RANGE - k
    octaves = _int(_int(np.float32(a).view(np.int32) - np.float32(b).view(np.int32)) + _HALF_BINADE)
    e = _int(octaves >> _MANTISSA)
    b = _int(np.float32(b).view(np.int32) + _int(e << _MANTISSA)).view(np.float32)  # b 2ᵉ
    s = (a - b) / (a + b)
    z = s * s
    series = fma(z, fma(z, _ARTANH[2], _ARTANH[1]), _ARTANH[0])
    return fma(np.float32(e), _LN_2, fma(s * z, series, s + s))


@compiled
def scale_of(relaxed: Single, natural: Single, factor: Single, eps: Single) -> Single:
    """`bernoulli.gradient_scale` with factor N/τ; 1 and eps are added apart, as 1 + eps is 1 in float32."""
    mean = tanh_of(natural)
    return (_1 - relaxed * relaxed + eps) / (_1 - mean * mean + eps) * factor


@compiled
def moved(natural: Single, prior: Single, gradient: Single, lr: Single, pull: Single) -> Single:
    """λ - α (G + ρ (λ - λ0)), with pull = α ρ."""
    return natural + (pull * (prior - natural) - lr * gradient)


@compiled
def sign_of(x: Single) -> Single:
    """±1, with 0 → +1."""
    return _1 if x >= _0 else -_1


# --- random numbers ---------------------------------------------------------------------------------------------------


@compiled
def _word(a: Word, b: Word, c: Word, counter: Word) -> tuple[Word, Word, Word, Word]:
    """A generator's next number, and its next a, b and c."""
    word = a + b + counter
    return word, b ^ (b >> _uint(11)), c + (c << _uint(3)), ((c << _uint(24)) | (c >> _uint(40))) + word


@compiled
def _row(state: Words, out: Words, counter: Word) -> None:
    for i in range(LANES):
        out[i], state[i], state[i + LANES], state[i + 2 * LANES] = _word(
            state[i], state[i + LANES], state[i + 2 * LANES], counter
        )


@compiled
def _four_rows(state: Words, out: Words, counter: Word) -> None:
    """As four times `_row`, with the state in registers: less than half the time."""
    for i in range(LANES):
        a, b, c = state[i], state[i + LANES], state[i + 2 * LANES]
        out[i], a, b, c = _word(a, b, c, counter)
        out[i + LANES], a, b, c = _word(a, b, c, counter + _uint(1))
        out[i + 2 * LANES], a, b, c = _word(a, b, c, counter + _uint(2))
        out[i + 3 * LANES], a, b, c = _word(a, b, c, counter + _uint(3))
        state[i], state[i + LANES], state[i + 2 * LANES] = a, b, c


@compiled
def words(state: Words, out: Words) -> None:
    """The next numbers of many generators SFC64 (Doty-Humphrey's PractRand), each as NumPy's `SFC64.random_raw`.

    Args:
        state: (4, LANES): a, b, c and the counter, as NumPy keeps them; changed in place.
        out: (rows, LANES), filled.
    """
    counter, rows = state[3, 0], out.shape[0]
    flat_state, flat_out = state.reshape(-1), out.reshape(-1)
    whole = rows - rows % 4
    for row in range(0, whole, 4):
        _four_rows(flat_state, flat_out[row * LANES : (row + 4) * LANES], counter)
        counter += _uint(4)
    for row in range(whole, rows):
        _row(flat_state, flat_out[row * LANES : (row + 1) * LANES], counter)
        counter += _uint(1)
    state[3] = counter


@compiled
def _integers(state: Words, block: Words, count: int) -> NDArray[np.int32]:
    """Draws words for `count` numbers and gives the block as int32, new up to there; count ≤ 2 block.size."""
    words(state, block[: (count + 2 * LANES - 1) // (2 * LANES)])
    return block.reshape(-1).view(np.int32)


@compiled
def logistic(state: Words, out: Array) -> None:
    """Fills `out` with draws of ln(u / (1 - u)), which is 2δ of the relaxation; state as in `words`."""
    block = np.empty((_ROWS, LANES), np.uint64)
    size = 2 * block.size
    for start in range(0, out.size, size):
        part = out[start : start + size]
        integers = _integers(state, block, part.size)
        for i in range(part.size):
            part[i] = logit_of(np.float32(integers[i]))


@compiled
def draw(state: Words, probability: Array) -> None:
    """p → ±1 in place, +1 where u < p for the uniform numbers of `Noise.uniform`; state as in `words`."""
    block = np.empty((_ROWS, LANES), np.uint64)
    size, width = 2 * block.size, np.float32(0.5 / HALF_RANGE)
    for start in range(0, probability.size, size):
        part = probability[start : start + size]
        integers = _integers(state, block, part.size)
        for i in range(part.size):
            part[i] = _1 if (np.float32(integers[i]) + HALF_RANGE) * width < part[i] else -_1


@compiled
def signs(latent: Array, out: Array) -> None:
    """±1, with 0 → +1."""
    for i in range(out.size):
        out[i] = sign_of(latent[i])


@compiled
def relaxed_sample(natural: Array, out: Array, temperature: float, state: Words) -> None:
    """out = tanh((λ + δ) / τ), `bernoulli.relaxed_sample`, with the noise of `logistic`."""
    factor = np.float32(0.5 / temperature)
    size = 2 * LANES * _ROWS
    for start in range(0, out.size, size):
        part, natural_part = out[start : start + size], natural[start : start + size]
        logistic(state, part)
        near = _int(0)
        for i in range(part.size):  # in one loop with the logit, both would run short of registers
            part[i] = (part[i] + (natural_part[i] + natural_part[i])) * factor
            near = _int(near + (_int(0) if abs(part[i]) >= _TANH_IS_1 else _int(1)))
        if near:
            tanh(part)
        else:  # at temperatures such as 1e-10: tanh is the sign, for a quarter of the time less
            signs(part, part)


# --- loops ------------------------------------------------------------------------------------------------------------


@compiled
def tanh(x: Array) -> None:
    """x → tanh x in place."""
    for i in range(x.size):
        x[i] = tanh_of(x[i])


@compiled
def scaled_gradient(slope: Array, relaxed: Array, natural: Array, out: Array, factor: Single, eps: Single) -> None:
    """out = s ⊙ g; see `scale_of`."""
    factor, eps = np.float32(factor), np.float32(eps)
    for i in range(out.size):
        out[i] = slope[i] * scale_of(relaxed[i], natural[i], factor, eps)


@compiled
def bayesbinn(natural: Array, prior: Array, gradient: Array, lr: Single, prior_weight: Single) -> None:
    """λ ← λ - α (G + ρ (λ - λ0)) in place."""
    lr, pull = np.float32(lr), np.float32(lr * prior_weight)
    for i in range(natural.size):
        natural[i] = moved(natural[i], prior[i], gradient[i], lr, pull)


@compiled
def bayesbinn_step(
    slope: Array,
    weights: Array,
    natural: Array,
    prior: Array,
    factor: Single,
    eps: Single,
    lr: Single,
    prior_weight: Single,
) -> None:
    """`scaled_gradient` and `bayesbinn` of one sample, and `signs` into its weights, number by number."""
    factor, eps, lr, pull = np.float32(factor), np.float32(eps), np.float32(lr), np.float32(lr * prior_weight)
    for i in range(weights.size):
        gradient = slope[i] * scale_of(weights[i], natural[i], factor, eps)
        natural[i] = moved(natural[i], prior[i], gradient, lr, pull)
        weights[i] = sign_of(natural[i])


@compiled
def bop(weight: Array, average: Array, gradient: Array, adaptivity: Single, threshold: Single) -> None:
    """m ← (1 - γ) m + γ g, and w ← -w where w m > τ, in place."""
    slow, rest = adaptivity < 0.5, np.float32(1 - adaptivity)
    adaptivity, threshold = np.float32(adaptivity), np.float32(threshold)
    for i in range(weight.size):
        way = gradient[i] - average[i]  # the sum is taken from the nearer end, as torch's lerp does
        average[i] = average[i] + adaptivity * way if slow else gradient[i] - rest * way
        weight[i] = -weight[i] if weight[i] * average[i] > threshold else weight[i]


@compiled
def soft_weights(plus: Array, minus: Array, out: Array, half_beta: Single) -> None:
    """out = tanh(β (a₊ - a₋) / 2), PMF's training weights."""
    half_beta = np.float32(half_beta)
    for i in range(out.size):
        out[i] = tanh_of((plus[i] - minus[i]) * half_beta)


@compiled
def pmf_step(
    slope: Array,
    plus: Array,
    minus: Array,
    average: Array,
    square: Array,
    weights: Array,
    half_beta: Single,
    decays: tuple[Single, Single],
    size: Single,
    root: Single,
    eps: Single,
) -> None:
    """PMF's exact gradient, step t of Adam for both logits and ±1 into the weights, number by number.

    The gradients differ in sign alone, and so do first moments m and moves: a₊ ← a₊ - d, a₋ ← a₋ + d with
    d = size m / (root √v + eps), size = α / (1 - β₁ᵗ), root = (1 - β₂ᵗ)^-½; decays = (1 - β₁, β₂).
    """
    rest, kept, new = np.float32(decays[0]), np.float32(decays[1]), np.float32(1 - decays[1])
    half_beta, size, root, eps = np.float32(half_beta), np.float32(size), np.float32(root), np.float32(eps)
    for i in range(slope.size):
        soft = tanh_of((plus[i] - minus[i]) * half_beta)
        gradient = (_1 - soft * soft) * half_beta * slope[i]
        average[i] = average[i] + rest * (gradient - average[i])
        square[i] = kept * square[i] + new * (gradient * gradient)
        move = size * average[i] / (root * np.sqrt(square[i]) + eps)
        plus[i] -= move
        minus[i] += move
        weights[i] = _1 if plus[i] >= minus[i] else -_1


@compiled
def signs_of_difference(plus: Array, minus: Array, out: Array) -> None:
    """±1, with 0 → +1."""
    for i in range(out.size):
        out[i] = _1 if plus[i] >= minus[i] else -_1
