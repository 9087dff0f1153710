"""The compiled loops against the plain functions that they stand for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clbinn import bernoulli
from clbinn.compiled import compiled, fma
from clbinn.optim import _loops
from clbinn.optim._noise import Noise
from clbinn.optim.bayesbinn import bayesbinn
from clbinn.optim.bop import bop
from clbinn.optim.pmf import exact_gradient

SIZES = [0, 1, 2, 127, 128, 129, 2047, 2048, 2049, 5001]
LANES = _loops.LANES


def state(seed):
    return Noise(seed).state


def normal(size, count):
    return np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)


def ulps(got, exact):
    """How far numbers in float32 are from those in float64, in units of the last place."""
    return np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32))


def numpys(lane):
    """NumPy's generator with the state of a lane."""
    generator = np.random.SFC64(0)
    given = generator.state
    given["state"]["state"] = lane.copy()
    generator.state = given
    return generator


@pytest.mark.parametrize("rows", [0, 1, 4, 7, 40])
def test_words_are_numpys(rows):
    ours = state(7)
    theirs = [numpys(ours[:, lane]) for lane in range(LANES)]
    for _ in range(2):
        out = np.empty((rows, LANES), np.uint64)
        _loops.words(ours, out)
        for lane, generator in enumerate(theirs):
            assert np.array_equal(out[:, lane], generator.random_raw(rows))
    for lane, generator in enumerate(theirs):
        assert np.array_equal(ours[:, lane], generator.state["state"]["state"])


def test_lanes_start_as_numpys_generators_do():
    ours, seeds = state(7), np.random.SeedSequence(7).generate_state(3 * LANES, np.uint64).reshape(3, LANES)
    for lane in range(LANES):
        generator = numpys(np.append(seeds[:, lane], np.uint64(1)))
        generator.random_raw(12)
        assert np.array_equal(generator.state["state"]["state"], ours[:, lane])
    first = np.random.SeedSequence(7).generate_state(3, np.uint64)
    generator = numpys(np.append(first, np.uint64(1)))
    generator.random_raw(12)
    assert np.array_equal(generator.state["state"]["state"], np.random.SFC64(7).state["state"]["state"])


@pytest.mark.parametrize("size", SIZES)
def test_logistic_noise_is_that_of_the_uniform_numbers(size):
    logits = np.empty(size, np.float32)
    _loops.logistic(state(3), logits)
    uniform = Noise(3).uniform(size, torch.float64).numpy()
    assert np.allclose(logits, np.log(uniform / (1 - uniform)), rtol=1e-3, atol=1e-6)  # u is rounded to float32
    assert np.isfinite(logits).all()


def test_uniform_numbers_are_inside_their_ends(monkeypatch):
    extremes = np.array([-(2**31), 2**31 - 1], np.int32)
    monkeypatch.setattr(_loops, "words", lambda _, out: out.fill(extremes.view(np.uint64)[0]))
    low, high = Noise(0).uniform(2)
    assert 0 < low < 1e-6
    assert 1 - 1e-6 < high < 1


@pytest.mark.parametrize("size", SIZES)
def test_draws_are_those_of_the_uniform_numbers(size):
    natural = torch.from_numpy(normal(size, 1)[0] * 3)
    natural[::7] = torch.inf
    natural[::11] = -torch.inf
    ours, theirs = Noise(5), Noise(5)
    for kind in (torch.float32, torch.float32, torch.float64):
        drawn = ours.draw_(bernoulli.probability(natural.to(kind)))
        assert drawn.dtype is kind
        assert torch.equal(drawn, bernoulli.sample(natural.to(kind), theirs.uniform(size, kind)))
    number = Noise(6).uniform(size)
    above = torch.nextafter(number, torch.ones(()))
    assert bool((Noise(6).draw_(number) == -1).all())
    assert bool((Noise(6).draw_(above) == 1).all())


def test_draws_stand_where_their_probabilities_stood():
    for kind in (torch.float32, torch.float64):
        p = torch.tensor([[0, 1, 0], [1, 0, 1]], dtype=kind)
        expected = 2 * p - 1
        for given, wanted in ((p.clone(), expected), (p.clone().T, expected.T)):
            assert Noise(0).draw_(given) is given
            assert torch.equal(given, wanted)


def test_logit_of_every_kind_of_integer():
    near = np.concatenate([np.arange(-2000, 2000), np.arange(2**31 - 2000, 2**31), -(2**31) + np.arange(2000)])
    k = np.concatenate([near, np.random.default_rng(0).integers(-(2**31), 2**31, 20_000)]).astype(np.float32)
    got = np.array([_loops.logit_of(number) for number in k])
    exact = np.log((_loops.HALF_RANGE + k).astype(np.float64) / (_loops.HALF_RANGE - k).astype(np.float64))
    assert np.isfinite(got).all()
    assert np.allclose(got, exact, rtol=2e-7, atol=2e-7)


def test_tanh():
    some = np.linspace(-12, 12, 200_001), np.geomspace(1e-35, 1, 10_001), -np.geomspace(1e-35, 1, 10_001)
    x = np.concatenate(some).astype(np.float32)
    got, exact = x.copy(), np.tanh(x.astype(np.float64))
    _loops.tanh(got)
    assert ulps(got, exact).max() < 2.5
    assert np.array_equal(np.abs(got) == 1, np.abs(exact.astype(np.float32)) == 1)
    special = np.array([0, -0.0, 1e-45, 11, np.inf, -np.inf, np.nan], np.float32)
    _loops.tanh(special)
    assert np.array_equal(special, np.array([0, 0, 1e-45, 1, 1, -1, np.nan], np.float32), equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-10])
def test_relaxed_samples(size, temperature):
    (natural,) = normal(size, 1)
    out = np.empty_like(natural)
    _loops.relaxed_sample(natural, out, temperature, state(1))
    noise = Noise(1).logit(torch.empty(size)) / 2
    plain = bernoulli.relaxed_sample(torch.from_numpy(natural), noise, temperature)
    assert np.allclose(out, plain.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("temperature", "natural"), [(1e-10, 0.1), (1e-10, np.inf), (0.5, 0.0), (0.5, 30.0), (0.5, np.nan), (1.0, 12.0)]
)
def test_where_tanh_is_left_out_no_number_changes(temperature, natural):
    """Blocks on this and that side of λ = 0, and blocks with all kinds of numbers between them."""
    array = np.full(2**16 + 5, natural, np.float32)
    array[: 2**15] *= -1
    array[::5000] = normal(array[::5000].size, 1)[0]
    out, noise = np.empty_like(array), np.empty_like(array)
    ours, theirs = state(3), state(3)
    _loops.relaxed_sample(array, out, temperature, ours)
    _loops.logistic(theirs, noise)
    expected = (noise + 2 * array) * np.float32(0.5 / temperature)
    _loops.tanh(expected)
    assert np.array_equal(out, expected, equal_nan=True)
    assert np.array_equal(ours, theirs)


def test_draws_and_what_follows_go_on_in_one_stream():
    """However many numbers a draw takes, the next one starts at a row of words."""
    ours, whole = state(2), np.empty(3 * 2 * LANES, np.float32)
    _loops.logistic(state(2), whole)
    parts = [np.empty(size, np.float32) for size in (1, 2 * LANES - 1, 2 * LANES)]
    for part in parts:
        _loops.logistic(ours, part)
    for part, expected in zip(parts, whole.reshape(3, -1), strict=True):
        assert np.array_equal(part, expected[: part.size])


def test_scaled_gradients_and_steps():
    natural, prior, slope, relaxed = normal(3001, 4)
    np.tanh(relaxed, out=relaxed)
    out = np.empty_like(natural)
    _loops.scaled_gradient(slope, relaxed, natural, out, 60.0 / 0.5, 1e-10)
    tensors = [torch.from_numpy(array) for array in (natural, prior, slope, relaxed)]
    plain = tensors[2] * bernoulli.gradient_scale(tensors[3], tensors[0], 0.5, 60.0)
    assert np.allclose(out, plain.numpy(), rtol=1e-4)

    expected = torch.from_numpy(natural.copy())
    bayesbinn(expected, tensors[1], plain, None, lr=0.01, momentum=0.0, prior_weight=0.3, step=1)
    at_once, weights = natural.copy(), relaxed.copy()
    _loops.bayesbinn(natural, prior, out, 0.01, 0.3)
    assert np.allclose(natural, expected.numpy(), rtol=1e-4, atol=1e-4)

    _loops.bayesbinn_step(slope, weights, at_once, prior, 60.0 / 0.5, 1e-10, 0.01, 0.3)
    assert np.array_equal(at_once, natural)
    assert np.array_equal(weights, bernoulli.mode(torch.from_numpy(natural)).numpy())


def test_eps_is_not_lost_beside_one():
    """At saturation both 1 - w² and 1 - μ² are 0 in float32, and the scale is N/τ.

    It begins where the nearest number to tanh λ is 1, not where an approximation gets there: 1 - μ² = 1.2e-7 in its
    place makes the scale a thousand times smaller.
    """
    natural = np.linspace(9.011, 12, 1000, dtype=np.float32)
    one, out = np.ones_like(natural), np.empty_like(natural)
    for sign in (one, -one):
        _loops.scaled_gradient(one, sign, sign * natural, out, 3.0, 1e-10)
        assert (out == 3).all()
    plain = bernoulli.gradient_scale(torch.from_numpy(one), torch.from_numpy(natural), 1.0, 3.0)
    assert torch.equal(torch.from_numpy(out), plain)


def test_signs():
    latent = np.array([-2, -0.0, 0, 1e-30, np.inf, -np.inf, np.nan], np.float32)
    out = np.empty_like(latent)
    _loops.signs(latent, out)
    assert out.tolist() == [-1, 1, 1, 1, 1, -1, -1]


def test_bop():
    average, gradient = normal(3001, 2)
    weight = np.sign(normal(3001, 3)[2])
    average *= 1e-2
    weight[:2], average[:2], gradient[:2] = [1, -1], [0.5, -0.5], [0.5, -0.5]  # at the threshold: they stay
    expected = torch.from_numpy(weight.copy()), torch.from_numpy(average.copy())
    bop(*expected, torch.from_numpy(gradient), adaptivity=0.01, threshold=0.5)
    before, kept = weight.copy(), gradient.copy()
    _loops.bop(weight, average, gradient, 0.01, 0.5)
    assert np.array_equal(weight[:2], before[:2])
    assert np.array_equal(weight, expected[0].numpy())
    assert np.allclose(average, expected[1].numpy(), rtol=1e-6)
    assert np.array_equal(gradient, kept)
    _loops.bop(weight, average, gradient, 0.5, 0.1)
    bop(*expected, torch.from_numpy(gradient), adaptivity=0.5, threshold=0.1)
    assert np.array_equal(weight, expected[0].numpy())
    assert 0 < (weight != before).mean() < 1
    for adaptivity in (0.75, 1.0):
        _loops.bop(weight, average, gradient * 1e-9, adaptivity, 1e-12)
        bop(*expected, torch.from_numpy(gradient * 1e-9), adaptivity=adaptivity, threshold=1e-12)
        assert np.array_equal(weight, expected[0].numpy())
        assert np.allclose(average, expected[1].numpy(), rtol=1e-6)
    assert np.array_equal(average, gradient * 1e-9)


def test_pmf():
    plus, minus, gradient = normal(3001, 3)
    soft, beta = np.empty_like(plus), 1.7
    plain = torch.softmax(beta * torch.tensor(np.stack([plus, minus])), 0)
    _loops.soft_weights(plus, minus, soft, beta / 2)
    assert np.allclose(soft, (plain[0] - plain[1]).numpy(), atol=1e-6)
    logits = [torch.from_numpy(side.copy()).requires_grad_() for side in (plus, minus)]
    adam = torch.optim.Adam(logits, lr=0.1, betas=(0.8, 0.95), eps=1e-3)
    average, square, weights = np.zeros_like(plus), np.zeros_like(plus), np.empty_like(plus)
    for step in range(1, 6):
        _loops.soft_weights(plus, minus, soft, beta / 2)
        to_logits = exact_gradient(torch.from_numpy(soft), torch.from_numpy(gradient), beta)
        for logit, slope in zip(logits, to_logits, strict=True):
            logit.grad = slope
        adam.step()
        size, root = 0.1 / (1 - 0.8**step), (1 - 0.95**step) ** -0.5
        _loops.pmf_step(gradient, plus, minus, average, square, weights, beta / 2, (1 - 0.8, 0.95), size, root, 1e-3)
        for ours, logit, sign in ((plus, logits[0], 1), (minus, logits[1], -1)):
            assert np.allclose(ours, logit.detach().numpy(), rtol=1e-5, atol=1e-6)
            assert np.allclose(sign * average, adam.state[logit]["exp_avg"].numpy(), rtol=1e-5, atol=1e-7)
            assert np.allclose(square, adam.state[logit]["exp_avg_sq"].numpy(), rtol=1e-5, atol=1e-9)
        assert np.array_equal(weights, np.where(plus >= minus, 1, -1))
        gradient = gradient * np.float32(0.7) + np.float32(0.1)
    plus[:3], minus[:3] = [1, 1, np.nan], [1, 2, 0]
    signs = np.empty_like(plus)
    _loops.signs_of_difference(plus, minus, signs)
    assert signs[:3].tolist() == [1, -1, -1]
    assert np.array_equal(signs[3:], np.where(plus[3:] >= minus[3:], 1, -1))


LOOP = """
import numpy as np
from clbinn.compiled import compiled

@compiled
def double(x):
    for i in range(x.size):
        x[i] = x[i] + x[i]

x = np.arange(3.0)
double(x)
print(x.tolist())
"""


def run_loop(script, cache):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("fault", ["none", "damaged code", "no place"])
def test_compiled_code_on_disk_is_a_convenience(fault, tmp_path):
    script, cache = tmp_path / "loop.py", tmp_path / "cache"
    script.write_text(LOOP)
    if fault == "no place":
        cache.write_text("a file where a folder should be")
    written = []
    for _ in range(2):
        assert run_loop(script, cache) == "[0.0, 2.0, 4.0]\n"
        written += [file.stat().st_mtime_ns for file in cache.rglob("*.nbc")]
        for file in cache.rglob("*.nbc") if fault == "damaged code" else ():
            file.write_bytes(file.read_bytes()[:20])
    assert (len(written), len(set(written))) == {"none": (2, 1), "damaged code": (2, 2), "no place": (0, 0)}[fault]


def test_code_of_another_version_is_not_taken(tmp_path):
    """Whatever the times of the files say, and if nothing but a constant differs."""
    script, cache = tmp_path / "loop.py", tmp_path / "cache"
    for factor, expected in [("2.0", "[0.0, 2.0, 4.0]\n"), ("3.0", "[0.0, 3.0, 6.0]\n")]:
        script.write_text(LOOP.replace("x[i] + x[i]", f"x[i] * {factor}"))
        os.utime(script, (1e9, 1e9))
        assert run_loop(script, cache) == expected
    assert len(list(cache.rglob("*.nbc"))) == 2
    assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".nbc"]


@compiled
def _multiply_add(a, b, c, out):
    for i in range(out.size):
        out[i] = fma(a[i], b[i], c[i])


def test_fma_rounds_once_or_as_product_and_sum():
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(10_001).astype(np.float32) for _ in range(2))
    c, out = -a * b, np.empty_like(a)  # what the product's rounding has taken off is left
    _multiply_add(a, b, c, out)
    once = (a.astype(np.float64) * b + c).astype(np.float32)  # products of float32 are exact in float64
    assert once.any()
    assert np.array_equal(out, once) or not out.any()
