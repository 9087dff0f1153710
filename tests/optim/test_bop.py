import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clbinn.optim.bop import bop, bop_negative


def reference(w, m, g, adaptivity, threshold):
    """Eq. 22 and 23, one weight at a time."""
    out, averages = [], []
    for wi, mi, gi in zip(w.tolist(), m.tolist(), g.tolist(), strict=True):
        mi = (1 - adaptivity) * mi + adaptivity * gi
        flip = abs(mi) > threshold and (mi > 0) == (wi > 0)
        out.append(-wi if flip else wi)
        averages.append(mi)
    return torch.tensor(out, dtype=w.dtype), torch.tensor(averages, dtype=w.dtype)


@given(
    seed=st.integers(0, 2**31), adaptivity=st.floats(1e-6, 1), threshold=st.floats(0, 1e-1), scale=st.floats(1e-3, 10)
)
def test_both_forms_flip_the_same_weights(seed, adaptivity, threshold, scale):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(64, generator=generator, dtype=torch.float64).sign()
    second, literal = first.clone(), first.clone()
    m, n = torch.zeros(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    for _ in range(20):
        g = scale * torch.randn(64, generator=generator, dtype=torch.float64)
        literal, _ = reference(literal, m.clone(), g, adaptivity, threshold)
        bop(first, m, g, adaptivity=adaptivity, threshold=threshold)
        bop_negative(second, n, g, adaptivity=adaptivity, threshold=threshold)
        torch.testing.assert_close(m, -n, rtol=1e-12, atol=1e-15)
        assert torch.equal(first, second)
        assert torch.equal(first, literal)


@pytest.mark.parametrize(
    ("weight", "average", "expected"),
    [
        (1.0, 0.5, -1.0),  # same sign, above the threshold: flips
        (-1.0, -0.5, 1.0),
        (1.0, -0.5, 1.0),  # the gradient agrees with the weight: stays
        (1.0, 0.25, 1.0),  # at the threshold exactly: stays
        (-1.0, -0.25, -1.0),
        (-1.0, 0.0, -1.0),
    ],
)
def test_hysteresis_at_its_edges(weight, average, expected):
    for step, sign in ((bop, 1), (bop_negative, -1)):
        w, m = torch.tensor([weight]), torch.tensor([sign * average])
        step(w, m, torch.zeros(1), adaptivity=0.0, threshold=0.25)
        assert w.item() == expected


def test_a_zero_threshold_flips_on_any_average():
    w, m = torch.tensor([1.0, 1.0]), torch.zeros(2)
    bop(w, m, torch.tensor([1e-20, 0.0]), adaptivity=1.0, threshold=0.0)
    assert w.tolist() == [-1.0, 1.0]
