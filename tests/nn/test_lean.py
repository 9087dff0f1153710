"""The lean batch normalisation is torch's, bit for bit."""

import pytest
import torch
from torch import nn

from clbinn.nn.batch_norm import reestimate, use_test_batch
from clbinn.nn.lean import BatchNorm1d


def pair(**options):
    return BatchNorm1d(5, **options), nn.BatchNorm1d(5, affine=False, **options)


@pytest.mark.parametrize("options", [{}, {"eps": 1e-3, "momentum": 0.4}, {"momentum": None}])
@pytest.mark.parametrize("shape", [(7, 5), (2, 5), (3, 5, 4)])
def test_outputs_gradients_and_statistics_are_torchs(options, shape):
    lean, torchs = pair(**options)
    torch.manual_seed(0)
    for training in (True, True, False):
        x = torch.randn(shape)
        seen = []
        for layer in (lean.train(training), torchs.train(training)):
            leaf = x.clone().requires_grad_()
            out = layer(leaf)
            (out * x.cos()).sum().backward()
            seen.append((out, leaf.grad, layer.running_mean, layer.running_var))
        assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_batch_of_one_is_refused_in_training_alone():
    lean, _ = pair()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        lean(torch.randn(1, 5))
    assert lean.eval()(torch.zeros(1, 5)).isfinite().all()
    with use_test_batch(nn.Sequential(lean)), pytest.raises(ValueError, match="more than 1 value per channel"):
        lean(torch.randn(1, 5))


def test_statistics_can_be_estimated_again_and_those_of_the_batch_used():
    x = torch.randn(40, 5) * 3 + 1
    results = []
    for layer in pair():
        net = nn.Sequential(layer).eval()
        with use_test_batch(net):
            own = net(x)
        statistics = reestimate(net, lambda net=net: [net(part) for part in x.split(10)])
        results.append([own, *statistics["0"]])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.allclose(results[0][1], x.mean(0), atol=1e-5)
