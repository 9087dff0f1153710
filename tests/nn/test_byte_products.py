"""Products of bytes and ±1: exact whatever way is taken, and the slow ways aren't."""

import time

import pytest
import torch

from clbinn.nn import byte_products
from clbinn.nn.byte_products import WAYS, by_floats, byte_product, quickest


@pytest.fixture(autouse=True)
def _found_anew():
    quickest.cache_clear()
    yield
    quickest.cache_clear()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 784, 6), (33, 100, 17), (5, 30_000, 4)])
def test_every_way_is_exact(way, shape):
    if not byte_products._works(way):
        pytest.skip("torch does not have it for this processor")
    n, features, units = shape
    raw = torch.randint(256, (n, features), dtype=torch.uint8)
    raw[0], weight = 255, torch.randn(units, features).sign()
    weight[0] = 1
    assert torch.equal(way(raw, weight).double(), raw.double() @ weight.double().T)


def test_floats_always_work():
    assert byte_products._works(by_floats)


def missing(raw, weight):
    raise AttributeError("no such operation")


def unsupported(raw, weight):
    raise RuntimeError("not on this processor")


def wrong(raw, weight):
    return by_floats(raw, weight) + 1


def slow(raw, weight):
    assert len(raw) < 512
    time.sleep(0.05)
    return by_floats(raw, weight)


def test_what_is_missing_wrong_or_slow_is_not_taken(monkeypatch):
    monkeypatch.setattr(byte_products, "WAYS", (missing, unsupported, wrong, slow, by_floats))
    assert quickest() is by_floats


def test_it_is_looked_for_once(monkeypatch):
    calls = []

    def counted(raw, weight):
        calls.append(len(raw))
        return by_floats(raw, weight)

    monkeypatch.setattr(byte_products, "WAYS", (counted,))
    raw, weight = torch.zeros(2, 3, dtype=torch.uint8), torch.ones(4, 3)
    byte_product(raw, weight)
    found = len(calls)
    byte_product(raw, weight)
    assert len(calls) == found + 1
