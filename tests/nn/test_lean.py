"""The lean batch normalisation is torch's, bit for bit; the lean dropout has its law and its rules."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from clbinn.nn.batch_norm import reestimate, use_test_batch
from clbinn.nn.lean import BatchNorm1d, Dropout, _keep


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


def test_a_new_estimate_leaves_the_network_as_it_was():
    net = nn.Sequential(nn.Linear(5, 5), *pair()).train()
    net[1].eval()  # a frozen layer
    net(torch.randn(10, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    reestimate(net, lambda: net(torch.randn(20, 5)))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [layer.training for layer in net] == [True, False, True]
    assert [layer.momentum for layer in net[1:]] == [0.1, 0.1]


def splitmix64(seed, count):
    """The numbers of Steele, Lea and Flood, "Fast splittable pseudorandom number generators", one by one."""
    for i in range(1, count + 1):
        word = (seed + i * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
        yield word ^ word >> 31


def test_the_words_are_splitmix64s():
    # the first numbers that the generator's public reference prints for seed 1234567
    assert list(splitmix64(1234567, 3)) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("drop", [0.2, 0.5, 1e-9])
@pytest.mark.parametrize("seed", [0, 1234567, 2**64 - 1])
def test_a_mask_has_a_word_for_each_number(seed, drop):
    mask = np.empty(1003, np.float32)
    _keep(np.uint64(seed), mask, drop)
    kept = [word >> 32 >= int(drop * 2**32) for word in splitmix64(seed, 1003)]
    assert np.array_equal(mask, np.where(kept, np.float32(1 / (1 - drop)), np.float32(0)))


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_at_its_rate(p):
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(400, 500))
    share = (out == 0).float().mean().item()
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / out.numel()) ** 0.5)
    assert torch.allclose(out[out != 0], torch.tensor(1 / (1 - p)))
    same = (out[:, 1:] == 0) == (out[:, :-1] == 0)  # neighbours know nothing of each other
    assert same.float().mean().item() == pytest.approx(p**2 + (1 - p) ** 2, abs=5e-3)


def test_dropout_follows_torchs_generator():
    layer, x = Dropout(0.5), torch.ones(64, 8)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_gradients_pass_where_numbers_do():
    x = torch.randn(30, 20).requires_grad_()
    out = Dropout(0.3)(x)
    out.sum().backward()
    assert torch.allclose(x.grad * x, out)


@pytest.mark.parametrize("x", [torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4).bfloat16()])
def test_other_numbers_go_torchs_way(x):
    for p, inplace in ((0.5, False), (0.5, True)):
        results = []
        for kind in (Dropout, nn.Dropout):
            torch.manual_seed(1)
            results.append(kind(p, inplace)(x.clone()))
        assert torch.equal(*results)


def test_in_place_is_in_place():
    x = torch.ones(50)
    assert Dropout(0.5, inplace=True)(x) is x
    assert 0 < (x == 0).sum() < 50


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_functions_of_functions_and_graphs_go_torchs_way():
    x = torch.randn(8, 5)
    results = []
    for layer in (Dropout(0.5), nn.Dropout(0.5)):
        torch.manual_seed(2)
        slope = torch.func.grad(lambda x, layer=layer: layer(x).sum())(x)
        drawn = torch.vmap(layer, randomness="different")(x)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)
        traced = torch.jit.trace(layer, x, check_trace=False)(x)
        results.append(torch.cat([slope, drawn, compiled, traced]))
    assert torch.equal(*results)
    with FakeTensorMode() as mode:
        assert Dropout(0.5)(mode.from_tensor(x)).shape == x.shape
    assert torch.fx.symbolic_trace(nn.Sequential(Dropout(0.5)).eval())(x).equal(x)


@pytest.mark.parametrize("p", [1.5, -0.1])
def test_a_probability_set_later_is_checked_as_torch_does(p):
    layer = Dropout(0.5)
    layer.p = p
    with pytest.raises(ValueError, match="probability"):
        layer(torch.ones(3))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything(p):
    x = torch.randn(5, 3)
    assert torch.equal(Dropout(p)(x), x * (1 - p))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert Dropout(0.5)(x[:0]).shape == (0, 3)


def test_every_shape_and_layout_and_a_copy():
    layer = copy.deepcopy(Dropout(0.4))
    for x in (torch.ones(7), torch.ones(()), torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        out = layer(x)
        assert out.shape == x.shape
        assert set(out.flatten().tolist()) <= {0.0, np.float32(1 / 0.6)}


def test_four_dimensions_are_refused_as_by_torch():
    for norm in (nn.BatchNorm1d(3, affine=False), BatchNorm1d(3)):
        with pytest.raises(ValueError, match="expected 2D or 3D"):
            norm(torch.randn(2, 3, 4, 4))
