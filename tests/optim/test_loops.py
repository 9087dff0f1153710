"""The compiled loops against the plain functions that they stand for."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clbinn import bernoulli
from clbinn.optim import _loops
from clbinn.optim._noise import Noise
from clbinn.optim.bayesbinn import bayesbinn

SIZES = [0, 1, 2, 1023, 1024, 1025, 3001]
TYPES = [(np.float32, 1e-6), (np.float64, 1e-12)]


def state(seed):
    return np.random.SFC64(seed).state["state"]["state"].copy()


def normal(size, dtype, count):
    return np.random.default_rng(0).normal(size=(count, size)).astype(dtype)


@pytest.mark.parametrize("size", SIZES)
def test_words_are_numpys(size):
    theirs, ours = np.random.SFC64(7), state(7)
    for _ in range(2):
        out = np.empty(size, np.uint64)
        _loops.words(ours, out)
        assert np.array_equal(out, theirs.random_raw(size))
    assert np.array_equal(ours, theirs.state["state"]["state"])


@pytest.mark.parametrize("size", SIZES)
def test_odds_are_those_of_the_uniform_numbers(size):
    odds = np.empty(size, np.float32)
    _loops.odds(state(3), odds)
    uniform = Noise(3).uniform(size, torch.float64).numpy()
    assert np.allclose(odds, uniform / (1 - uniform), rtol=1e-3)  # 1 - u is rounded where u is near 1
    assert np.isfinite(odds).all()
    assert (odds > 0).all()


def test_odds_of_the_outermost_integers_are_finite():
    half = np.float32(_loops.HALF_RANGE)
    for k in (-(2**31), 2**31 - 1):
        assert 0 < (half + np.float32(k)) / (half - np.float32(k)) < np.inf


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-10])
def test_relaxed_samples(dtype, tolerance, temperature):
    (natural,) = normal(3001, dtype, 1)
    out = np.empty_like(natural)
    _loops.relaxed_sample(natural, out, temperature, state(1))
    noise = Noise(1).logit(torch.empty(3001, dtype=torch.from_numpy(natural).dtype)) / 2
    plain = bernoulli.relaxed_sample(torch.from_numpy(natural), noise, temperature)
    assert np.allclose(out, plain.numpy(), atol=100 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_scaled_gradients_and_steps(dtype, tolerance):
    natural, prior, slope, relaxed = normal(3001, dtype, 4)
    np.tanh(relaxed, out=relaxed)
    out = np.empty_like(natural)
    _loops.scaled_gradient(slope, relaxed, natural, out, 60.0 / 0.5, 1e-10)
    tensors = [torch.from_numpy(array) for array in (natural, prior, slope, relaxed)]
    plain = tensors[2] * bernoulli.gradient_scale(tensors[3], tensors[0], 0.5, 60.0)
    assert np.allclose(out, plain.numpy(), rtol=100 * tolerance)

    expected = torch.from_numpy(natural.copy())
    bayesbinn(expected, tensors[1], plain, None, lr=0.01, momentum=0.0, prior_weight=0.3, step=1)
    _loops.bayesbinn(natural, prior, out, 0.01, 0.3)
    assert np.allclose(natural, expected.numpy(), rtol=100 * tolerance, atol=100 * tolerance)


def test_eps_is_not_lost_beside_one():
    """At saturation both 1 - w² and 1 - μ² are 0 in float32, and the scale is N/τ."""
    one, ten, out = np.ones(4, np.float32), np.full(4, 10, np.float32), np.empty(4, np.float32)
    _loops.scaled_gradient(one, one, ten, out, 3.0, 1e-10)
    assert (out == 3).all()


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_signs(dtype, tolerance):
    latent = np.array([-2, -0.0, 0, 1e-30, np.inf, -np.inf, np.nan], dtype)
    out = np.empty_like(latent)
    _loops.signs(latent, out)
    assert out.tolist() == [-1, 1, 1, 1, 1, -1, -1]


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


@pytest.mark.parametrize("fault", ["none", "damaged index", "damaged code", "no place"])
def test_compiled_code_on_disk_is_a_convenience(fault, tmp_path):
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    cache = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NUMBA_CACHE_DIR": str(cache)}
    if fault == "no place":
        cache.write_text("a file where a folder should be")
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert (done.stdout, done.stderr) == ("[0.0, 2.0, 4.0]\n", "")
        for file in cache.rglob("*.nbi" if fault == "damaged index" else "*.nbc") if "damaged" in fault else ():
            file.write_bytes(file.read_bytes()[:20])
    assert fault == "no place" or list(cache.rglob("*.nbc"))
