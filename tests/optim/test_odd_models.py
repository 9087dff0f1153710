"""Copies, half precision, layouts and layers beyond the plain MLP, and mistakes that would pass in silence."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbinn.optim import STE, BayesBiNN, Bop
from clbinn.predict import predict_proba

MAKERS = {
    "bayesbinn": lambda params: BayesBiNN(params, 100, lr=0.1, temperature=1.0, momentum=0.5, init_natural=1.0, seed=0),
    "ste": lambda params: STE(params, seed=0),
    "bop": lambda params: Bop(params, seed=0),
}


def make(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False))
    settings = {"num_data": 100, "lr": 0.1, "temperature": 1.0, "init_natural": 1.0, "seed": 0, **options}
    return net, BayesBiNN(net.parameters(), **settings)


def step(net, opt, x, y):
    with opt.sampled_params():
        F.cross_entropy(net(x), y).backward()
    opt.step()


@pytest.fixture
def batch():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_goes_on_as_the_original_and_apart_from_it(name, duplicate, batch):
    net, _ = make()
    opt = MAKERS[name](net.parameters())
    torch.optim.lr_scheduler.StepLR(opt, 1) if name != "bop" else None  # wraps `step`, which must not be copied
    step(net, opt, *batch)
    with opt.sampled_params():  # a sample is pending
        F.cross_entropy(net(batch[0]), batch[1]).backward()
    other_net, other = duplicate((net, opt))
    before = [p.clone() for p in other_net.parameters()]
    opt.step()
    step(net, opt, *batch)
    for p, old in zip(other_net.parameters(), before, strict=True):
        assert torch.equal(p, old), "the copy shares weights"
    other.step()
    step(other_net, other, *batch)
    mine, theirs = opt.state_dict()["state"], other.state_dict()["state"]
    assert all(torch.equal(value, theirs[i][key]) for i, state in mine.items() for key, value in state.items())


def test_autocast_sees_the_weights_of_each_block():
    net = nn.Linear(64, 3, bias=False)
    opt = BayesBiNN(net.parameters(), 100, init_natural=0.1, seed=0)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    draws = [opt.sample_weights() for _ in range(2)]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = []
        for draw in draws:
            with opt.weights(draw):
                outputs.append(net(x).float())
        mode = net(x).float()
    for weights, output in zip([*draws, opt.mode_weights()], [*outputs, mode], strict=True):
        torch.testing.assert_close(output, x @ weights[0].T, rtol=0.02, atol=0.2)


def test_grad_scaler_is_refused(batch):
    net, opt = make()
    scaler = torch.amp.GradScaler("cpu")
    natural = [v.clone() for v in opt.natural_parameters()]
    with opt.sampled_params():
        scaler.scale(F.cross_entropy(net(batch[0]), batch[1])).backward()
    with pytest.raises(RuntimeError, match="GradScaler can't be used"):
        scaler.step(opt)
    assert all(torch.equal(a, b) for a, b in zip(natural, opt.natural_parameters(), strict=True))


def test_a_backward_pass_outside_the_block_is_no_silent_nothing(batch):
    net = nn.Linear(8, 3, bias=False)
    opt = BayesBiNN(net.parameters(), 100, seed=0)
    with opt.sampled_params():
        loss = F.cross_entropy(net(batch[0]), batch[1])
    loss.backward()
    with pytest.raises(RuntimeError, match="run the backward pass inside"):
        opt.step()
    step(net, opt, *batch)


def test_an_error_while_gradients_are_taken_puts_the_mode_back(monkeypatch, batch):
    net, opt = make()

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(opt, "_collect", fail)
    with pytest.raises(MemoryError):
        step(net, opt, *batch)
    assert all((p.abs() == 1).all() for p in net.parameters())
    assert not opt.sampling


@pytest.mark.parametrize("frozen", [False, True])
def test_channels_last_kernels(frozen):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(16, 3, bias=False))
    net.to(memory_format=torch.channels_last)
    opt = BayesBiNN(net.parameters(), 100, lr=0.1, temperature=1.0, seed=0)
    net[0].weight.requires_grad_(not frozen)
    before = opt.natural_parameters()[0].clone()
    step(net, opt, torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.tensor([0, 1]))
    assert torch.equal(opt.natural_parameters()[0], before) == frozen
    assert torch.equal(net[0].weight, torch.sign(opt.natural_parameters()[0]))


def test_sparse_gradients_are_those_of_a_dense_embedding():
    naturals = []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(10, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3, bias=False))
        opt = BayesBiNN(net.parameters(), 100, lr=0.1, temperature=1.0, init_natural=1.0, seed=0)
        step(net, opt, torch.tensor([[1, 2], [1, 9]]), torch.tensor([0, 1]))
        naturals.append(opt.natural_parameters())
    assert all(torch.equal(a, b) for a, b in zip(*naturals, strict=True))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(4, 6, batch_first=True, bias=False)
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.head(self.body(x)[0][:, -1])


def test_recurrent_networks_learn_and_predict_with_drawn_weights():
    torch.manual_seed(0)
    net = Recurrent()
    opt = BayesBiNN(net.parameters(), 100, lr=0.1, temperature=1.0, init_natural=0.5, seed=0)
    before, x = [v.clone() for v in opt.natural_parameters()], torch.randn(5, 7, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(net, opt, x, torch.tensor([0, 1, 2, 0, 1]))
        mean, mode = predict_proba(net, opt, x, 20, seed=1), predict_proba(net, opt, x, 0)
    assert all((a != b).any() for a, b in zip(before, opt.natural_parameters(), strict=True))
    assert not torch.allclose(mean, mode)


def test_blocks_of_weights_may_be_nested_but_not_inside_a_sample():
    net, opt = make()
    outer, inner = opt.sample_weights(), opt.sample_weights()
    with opt.weights(outer):
        with opt.weights(inner):
            assert torch.equal(net[0].weight, inner[0])
        assert torch.equal(net[0].weight, outer[0])
    assert torch.equal(net[0].weight, opt.mode_weights()[0])
    with opt.sampled_params(), pytest.raises(RuntimeError, match="leave the block first"), opt.weights(outer):
        pass


def test_a_schedule_may_bring_in_momentum(batch):
    net, opt = make()
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=5)
    step(net, opt, *batch)
    schedule.step()
    twin, other = make()
    other.load_state_dict(opt.state_dict())  # made without momentum: the state says what is kept
    for pair in ((net, opt), (twin, other)):
        step(*pair, *batch)
    assert "momentum" in opt.state_dict()["state"][0]
    assert all(torch.equal(a, b) for a, b in zip(opt.natural_parameters(), other.natural_parameters(), strict=True))


def test_named_parameters_are_taken_sets_and_foreign_states_are_not():
    net, opt = make()
    assert len(BayesBiNN(net.named_parameters(), 100).parameters()) == 2
    with pytest.raises(TypeError, match="need an order"):
        BayesBiNN([{"params": set(net.parameters())}], 100)
    with pytest.raises(ValueError, match="another kind of optimizer"):
        opt.load_state_dict(torch.optim.Adam(net.parameters()).state_dict())


def test_finite_tells_a_posterior_that_is_lost():
    _, opt = make()
    assert opt.finite
    opt.natural_parameters()[1][0, 0] = float("inf")
    assert not opt.finite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "1e-3"}, "lr must be finite and at least 0, got '1e-3'"),
        ({"num_samples": 1.5}, "num_samples must be at least 1 and a whole number"),
        ({"prior_natural": float("nan")}, "prior_natural must be finite"),
        ({"init_natural": [torch.full((6, 8), torch.inf), torch.ones(3, 6)]}, "init_natural must be finite"),
    ],
)
def test_options_that_would_poison_the_posterior_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
