"""Many weight samples at once against the network run once for each."""

import pytest
import torch

from clbinn.nn import MLP
from clbinn.nn.batch_norm import use_test_batch
from clbinn.nn.many import ByteInputs, sample_logits, takes_many


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
