"""Products of bytes and ±1: exact whatever way is taken, and the slow ways aren't."""

import dataclasses
import time

import pytest
import torch

from clbinn.nn import byte_products as byte_products_module
from clbinn.nn.byte_products import BY_FLOATS, WAYS, ByteProducts, quickest


@pytest.fixture(autouse=True)
def _found_anew():
    quickest.cache_clear()
    yield
    quickest.cache_clear()


def signs(*shape):
    return torch.randint(2, shape).mul(2).sub(1).float()


def made(way, raw, weight):
    if way is not BY_FLOATS:
        try:
            return way(raw, weight).T
        except (AttributeError, NotImplementedError, RuntimeError):
            pytest.skip("torch does not have it for this processor")
    return way(raw, weight).T


def product(raw, weight):
    products = ByteProducts([raw])
    return products.multiply(0, products.weights(weight)).T


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 784, 6), (33, 100, 17), (5, 2**16, 4)])
def test_every_way_is_exact(way, shape):
    n, features, units = shape
    raw = torch.randint(256, (n, features), dtype=torch.uint8)
    raw[0], weight = 255, signs(units, features)
    weight[0] = 1
    assert torch.equal(made(way, raw, weight).double(), weight.double() @ raw.double().T)


@pytest.mark.parametrize("way", WAYS)
def test_however_the_numbers_lie_in_memory(way):
    raw, weight = torch.randint(256, (96, 8), dtype=torch.uint8).T, signs(96, 24).T
    exact = weight.double() @ raw.double().T
    assert torch.equal(made(way, raw, weight).double(), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(way, raw, weight).double(), exact)
    assert torch.equal(
        made(way, raw[:, ::2], weight[:, ::2]).double(), weight[:, ::2].double() @ raw[:, ::2].double().T
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kept", [0, 1, 8, 255, 256, 257, 784])
def test_zeros_are_left_out_exactly(way, kept):
    raw = torch.zeros(3, 784, dtype=torch.uint8)
    raw[1, torch.randperm(784)[:kept]] = 255
    raw[2, torch.randperm(784)[: kept // 2]] = 1
    weight = signs(600, 784)
    weight[0] = 1
    weight[-1] = -1
    assert torch.equal(made(way, raw, weight).double(), weight.double() @ raw.double().T)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_to_multiply(shape):
    n, features = shape
    got = product(torch.ones(n, features, dtype=torch.uint8), torch.ones(2, features))
    assert torch.equal(got, torch.zeros(2, n))


@pytest.mark.parametrize("way", WAYS)
def test_more_features_than_floats_can_add_exactly(monkeypatch, way):
    made(way, torch.zeros(1, 1, dtype=torch.uint8), torch.ones(1, 1))
    monkeypatch.setattr(byte_products_module, "WAYS", (way,))
    raw, weight = torch.full((2, 200_000), 255, dtype=torch.uint8), torch.ones(3, 200_000)
    raw[:, 0] = 254
    exact = torch.tensor(200_000 * 255 - 1).to(torch.float32)  # rounded once
    assert torch.equal(product(raw, weight), exact.expand(3, 2))


def missing(raw):
    raise AttributeError("no such operation")


def unsupported(raw):
    raise RuntimeError("not on this processor")


def slow(raw, weight):
    assert len(weight) < 512
    time.sleep(0.05)
    return BY_FLOATS.multiply(raw, weight)


def with_parts(**parts):
    return dataclasses.replace(BY_FLOATS, **parts)


FAULTY = (
    with_parts(inputs=missing),
    with_parts(inputs=unsupported),
    with_parts(multiply=lambda raw, weight: BY_FLOATS.multiply(raw, weight) + 1),
    with_parts(multiply=slow),
    BY_FLOATS,
)


def test_what_is_missing_wrong_or_slow_is_not_taken(monkeypatch):
    monkeypatch.setattr(byte_products_module, "WAYS", FAULTY)
    assert quickest() is BY_FLOATS


@pytest.mark.parametrize(("tenths", "share"), [(0, 0.0), (2, 0.2), (10, 1.0)])
def test_it_is_looked_for_with_as_many_zeros(tenths, share):
    raw, weight = byte_products_module._operands(40, tenths)
    assert raw.ne(0).double().mean().item() == pytest.approx(share, abs=0.01)
    assert weight.unique().tolist() == [-1, 1]
    assert byte_products_module._tenths([raw]) == tenths


def test_few_bytes_and_many_have_a_way_each(monkeypatch):
    seen = []

    def way_of(tenths=10):
        seen.append(tenths)
        return BY_FLOATS

    monkeypatch.setattr(byte_products_module, "quickest", way_of)
    raw = torch.zeros(4, 100, dtype=torch.uint8)
    raw[:, :19] = 7
    ByteProducts([raw])
    ByteProducts([raw, torch.ones_like(raw)])  # one way for all
    assert seen == [2, 6]


@pytest.mark.parametrize("way", WAYS)
def test_whatever_the_defaults_of_torch(way):
    raw, weight = torch.randint(256, (5, 30), dtype=torch.uint8), signs(7, 30)
    expected = weight @ raw.float().T
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            got = made(way, raw, weight)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got, expected)


def test_it_is_looked_for_once(monkeypatch):
    calls = []

    def counted(raw):
        calls.append(len(raw))
        return raw

    monkeypatch.setattr(byte_products_module, "WAYS", (with_parts(inputs=counted),))
    raw = torch.zeros(2, 3, dtype=torch.uint8)
    ByteProducts([raw])
    found = len(calls)
    ByteProducts([raw])
    assert len(calls) == found + 1


def test_batches_share_weights_made_ready_once():
    batches = [torch.randint(256, (n, 30), dtype=torch.uint8) for n in (5, 7)]
    weight, calls = signs(4, 30), []
    products = ByteProducts(batches)
    products.way = dataclasses.replace(
        products.way, weights=lambda w, of=products.way.weights: calls.append(1) or of(w)
    )
    ready = products.weights(weight)
    for i, raw in enumerate(batches):
        assert torch.equal(products.multiply(i, ready), raw.float() @ weight.T)
    assert len(calls) == 1
