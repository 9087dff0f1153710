"""Many weight samples at once against the network run once for each."""

from contextlib import nullcontext

import pytest
import torch

from clbinn.nn import MLP, byte_products, many
from clbinn.nn.batch_norm import use_test_batch
from clbinn.nn.many import ByteInputs, SharedInputs, inputs_at_a_time, takes_many


def sample_logits(net, x, weights):
    """(C, n, classes), as many sets of weights at a time as in a prediction."""
    shared = SharedInputs(net, [x])
    parts = zip(*(torch.split(w, shared.networks_at_a_time) for w in weights), strict=True)
    return torch.cat([logits for part in parts for logits in shared.logits(part)])


def networks():
    return [
        MLP(20, [7, 6], 4),
        MLP(20, [7], 4, order="norm_relu", dropout=0.3),
        MLP(20, [31], 4, norm="layer"),
        MLP(20, [7, 6], 4, norm="scale", logit_scale=3.0),
        MLP(20, [7, 6], 4, norm="none", activation="tanh"),
    ]


@pytest.mark.parametrize("net", networks(), ids=lambda net: f"{net.norm}-{net.order}")
@pytest.mark.parametrize("bytes_in", [False, True])
@pytest.mark.parametrize("own_statistics", [False, True])
def test_equals_the_network_run_once_for_each_sample(net, bytes_in, own_statistics):
    torch.manual_seed(0)
    raw = torch.randint(256, (33, 20), dtype=torch.uint8)
    x = ByteInputs(raw, 1 / (255 * 0.3), -0.4)
    net.train()
    net(x.floats() + 1)  # moves the running statistics
    net.eval()
    weights = [torch.randn(9, *p.shape).sign() for p in net.parameters()]
    expected = []
    for c in range(9):
        for p, w in zip(net.parameters(), weights, strict=True):
            p.data = w[c]
        if own_statistics:
            with use_test_batch(net):
                expected.append(net(x.floats()))
        else:
            expected.append(net(x.floats()))
    given = x if bytes_in else x.floats().view(33, 4, 5)
    if own_statistics:
        with use_test_batch(net):
            got = sample_logits(net, given, weights)
    else:
        got = sample_logits(net, given, weights)
    assert torch.allclose(got, torch.stack(expected), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_where_the_network_does(half):
    torch.manual_seed(0)
    net = MLP(20, [7, 6], 4, order="norm_relu").eval()
    for layer in net.layers:
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.running_mean.normal_(40)
            layer.running_var.fill_(1e-3)
    x, weights = torch.randn(33, 20), [torch.randn(3, *p.shape).sign() for p in net.parameters()]
    with torch.no_grad(), torch.autocast("cpu", dtype=half, cache_enabled=False):
        got = sample_logits(net, x, weights)
        for c in range(3):
            for p, w in zip(net.parameters(), weights, strict=True):
                p.data = w[c]
            expected = net(x)
            assert torch.allclose(got[c].float(), expected.float(), rtol=2e-2, atol=expected.abs().max().item() / 50)


def test_byte_products_are_exact():
    raw = torch.randint(256, (5, 784), dtype=torch.uint8)
    weight = torch.randint(2, (3, 6, 784)).mul(2).sub(1).float()
    net = MLP(784, [], 6, norm="none")
    got = sample_logits(net, ByteInputs(raw, 1.0, 0.0), [weight])
    exact = torch.einsum("ni,coi->cno", raw.double(), weight.double())
    assert torch.equal(got.double(), exact)


@pytest.mark.parametrize("own_statistics", [False, True])
def test_logits_do_not_depend_on_the_way_of_the_first_product(own_statistics, monkeypatch):
    torch.manual_seed(0)
    net = MLP(100, [70, 30], 4).eval()
    raw = torch.randint(256, (300, 100), dtype=torch.uint8) * torch.randint(2, (300, 100), dtype=torch.uint8)
    weights = [torch.randint(2, (6, *p.shape)).mul(2).sub(1).float() for p in net.parameters()]
    found = []
    for way in byte_products.WAYS:
        if byte_products._works(way):
            monkeypatch.setattr(byte_products, "quickest", lambda tenths, way=way: way)
            with use_test_batch(net) if own_statistics else nullcontext():
                found.append(sample_logits(net, ByteInputs(raw, 1 / 200, -0.4), weights))
    assert len(found) > 1
    assert all(torch.equal(logits, found[0]) for logits in found)


def test_bytes_come_in_larger_batches_where_nothing_depends_on_them(monkeypatch):
    monkeypatch.setattr(many, "BYTES_AT_A_TIME", 7)
    net, raw = MLP(3, [4], 2), ByteInputs(torch.zeros(9, 3, dtype=torch.uint8), 1.0, 0.0)
    assert [inputs_at_a_time(net, raw, size) for size in (5, 8)] == [7, 8]
    assert inputs_at_a_time(net, raw.floats(), 5) == 5
    with use_test_batch(net):
        assert inputs_at_a_time(net, raw, 5) == 5


def test_a_flattening_between_the_layers_changes_nothing():
    net, x = MLP(6, [5], 2).eval(), torch.randn(8, 6)
    weights = [torch.randint(2, (3, *p.shape)).mul(2).sub(1).float() for p in net.parameters()]
    expected = sample_logits(net, x, weights)
    net.layers.insert(3, torch.nn.Flatten())
    assert takes_many(net, list(net.parameters()))
    assert torch.equal(sample_logits(net, x, weights), expected)


def test_networks_in_double_precision():
    net, x = MLP(6, [5], 2).double().eval(), torch.randn(8, 6, dtype=torch.float64)
    net.layers[3].running_mean.normal_()
    weights = [torch.randint(2, (3, *p.shape)).mul(2).sub(1).double() for p in net.parameters()]
    got = sample_logits(net, x, weights)
    for c in range(3):
        for p, w in zip(net.parameters(), weights, strict=True):
            p.data = w[c]
        torch.testing.assert_close(got[c], net(x))


def test_only_plain_mlps_with_all_their_weights_qualify():
    net = MLP(4, [3], 2)
    assert takes_many(net, list(net.parameters()))
    assert not takes_many(net, list(net.parameters())[:1])
    assert not takes_many(torch.nn.Sequential(net), list(net.parameters()))
    biased = MLP(4, [3], 2, bias=True)
    assert not takes_many(biased, list(biased.parameters()))
    tied = MLP(4, [4], 4)
    tied.layers[4].weight = tied.layers[1].weight
    assert not takes_many(tied, list(tied.parameters()))
    hooked = MLP(4, [3], 2)
    hooked.layers[1].register_forward_hook(lambda *_: None)
    assert not takes_many(hooked, list(hooked.parameters()))
    changed = MLP(4, [3], 2)
    changed.layers.insert(2, torch.nn.Sigmoid())
    assert not takes_many(changed, list(changed.parameters()))


def test_other_parameters_and_hooks_are_not_passed_over():
    net = MLP(4, [4], 4)
    first, second = net.parameters()
    assert takes_many(net, [first, second])
    assert not takes_many(net, [second, first])
    net.layers[1].register_forward_pre_hook(lambda *_: None)
    assert not takes_many(net, [first, second])
