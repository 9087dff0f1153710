import copy

import pytest
import torch
from torch import nn

from clbinn.errors import UserError
from clbinn.strategies.ewc import EWC, EWCPlugin
from clbinn.strategies.fisher import fisher_diagonal
from clbinn.strategies.naive import Naive


@pytest.fixture
def make_ewc(make_net):
    def make(**options):
        return EWC(model=make_net(), evaluator=None, **{"lr": 1e-2, "train_mb_size": 20, "train_epochs": 3} | options)

    return make


@pytest.mark.parametrize("decay", [None, 0.5])
def test_three_tasks_are_those_of_a_literal_loop(make_net, make_stream, decay, listen, slow_fisher):
    """The whole method with autograd on λ/2 Σ_k Σ F_k (θ - θ_k)², fed with the batches that the strategy saw."""
    net, stream = make_net(), make_stream(tasks=3)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1)  # Adam would blow up rounding where a gradient is near 0
    strategy = EWC(
        model=net, optimizer=sgd, evaluator=None, strength=30.0, decay=decay, train_mb_size=20, train_epochs=3
    )
    batches = []
    listen(strategy, "before_forward", lambda: batches.append((strategy.mb_x.clone(), strategy.mb_y.clone())))
    for experience in stream.train_stream:
        strategy.train(experience)

    model, anchors = make_net(), []
    per_task = len(batches) // 3
    for task, experience in enumerate(stream.train_stream):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in batches[task * per_task : (task + 1) * per_task]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            for fisher, anchor in anchors:
                for name, p in model.named_parameters():
                    loss = loss + 15.0 * (fisher[name] * (p - anchor[name]).square()).sum()
            loss.backward()
            optimizer.step()
        x, y = (torch.stack([torch.as_tensor(row[k]) for row in experience.dataset]) for k in (0, 1))
        fisher = {name: value / 60 for name, value in slow_fisher(model, x, y).items()}
        anchor = {name: p.detach().clone() for name, p in model.named_parameters()}
        if decay is not None and anchors:
            fisher = {name: value + decay * anchors[0][0][name] for name, value in fisher.items()}
        anchors = [(fisher, anchor)] if decay is not None else [*anchors, (fisher, anchor)]
    for name, p in model.named_parameters():
        torch.testing.assert_close(dict(strategy.model.named_parameters())[name], p, atol=1e-5, rtol=1e-4)


def test_strength_0_is_fine_tuning(make_ewc, make_net, make_stream):
    weights = []
    for strategy in (
        make_ewc(strength=0.0),
        Naive(model=make_net(), evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=3),
    ):
        torch.manual_seed(0)
        for experience in make_stream().train_stream:
            strategy.train(experience)
        weights.append(strategy.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


def test_it_forgets_less_than_fine_tuning(make_ewc, make_stream, evaluate):
    accuracy = {}
    for strength in (0.0, 100.0):
        torch.manual_seed(0)
        strategy, stream = make_ewc(strength=strength, train_epochs=20), make_stream(count=120)
        for experience in stream.train_stream:
            strategy.train(experience)
        accuracy[strength] = evaluate(strategy, stream.test_stream[0])[1]
    assert accuracy[100.0] > accuracy[0.0] + 0.05


def test_a_part_of_the_samples_estimates_the_whole(make_ewc, make_stream):
    strategy, stream = make_ewc(), make_stream(count=300)
    strategy.train(stream.train_stream[0])
    strategy.experience = stream.train_stream[0]
    whole = EWCPlugin(1.0).importances(strategy)
    part = EWCPlugin(1.0, fisher_samples=200, batch_size=64).importances(strategy)
    again = EWCPlugin(1.0, fisher_samples=200, batch_size=64).importances(strategy)
    for name, value in whole.items():
        assert torch.equal(part[name], again[name])
        assert not torch.equal(part[name], value)
        torch.testing.assert_close(part[name].sum(), value.sum(), rtol=0.5, atol=0)


def test_measuring_leaves_the_mode_of_the_network(make_ewc, make_stream):
    strategy, stream = make_ewc(), make_stream()
    strategy.train(stream.train_stream[0])
    strategy.experience = stream.train_stream[0]
    before = copy.deepcopy(strategy.model.state_dict())
    strategy.model.train()
    EWCPlugin(1.0).importances(strategy)
    assert strategy.model.training
    for name, value in strategy.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength must be at least 0"),
        ({"strength": float("nan")}, "strength must be at least 0"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\]"),
        ({"fisher_samples": 0}, "fisher_samples must be at least 1"),
    ],
)
def test_bad_options_are_told(make_ewc, options, message):
    with pytest.raises(UserError, match=message):
        make_ewc(**options)


def test_the_importances_of_a_convolution_are_means_over_single_samples(make_stream, slow_fisher):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    strategy, experience = EWC(model=model, evaluator=None, train_mb_size=20), make_stream(1).train_stream[0]
    strategy.train(experience)
    x, y = (torch.stack([torch.as_tensor(row[k]) for row in experience.dataset]) for k in (0, 1))
    plugin = next(plugin for plugin in strategy.plugins if isinstance(plugin, EWCPlugin))
    for name, value in slow_fisher(model, x, y).items():
        torch.testing.assert_close(plugin.penalty.precision[name], value / 60)


def test_importances_are_those_of_the_network_as_it_predicts(make_net, make_stream, slow_fisher):
    stream, net = make_stream(1), make_net(dropout=0.5)
    strategy = EWC(model=net, evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=1)
    strategy.train(stream.train_stream[0])
    strategy.experience = stream.train_stream[0]
    net.train()
    found = EWCPlugin(1.0).importances(strategy)
    assert net.training
    x, y = (torch.stack([torch.as_tensor(row[k]) for row in stream.train_stream[0].dataset]) for k in (0, 1))
    net.eval()
    for name, value in slow_fisher(net, x, y).items():
        torch.testing.assert_close(found[name], value / len(y))


def test_the_seed_chooses_the_samples_of_the_fisher_information(make_ewc, make_stream):
    stream, found = make_stream(1), []
    for seed in (0, 0, 1):
        strategy = make_ewc(fisher_samples=5, seed=seed, train_epochs=1)
        strategy.experience = stream.train_stream[0]
        plugin = next(p for p in strategy.plugins if isinstance(p, EWCPlugin))
        found.append(plugin.importances(strategy))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_importances_are_measured_without_the_transforms_of_training(
    make_ewc, make_stream, transform_groups, monkeypatch
):
    seen = []

    def recorded(model, x, *rest):
        seen.extend(x[:, 0].tolist())
        return fisher_diagonal(model, x, *rest)

    monkeypatch.setattr("clbinn.strategies.ewc.fisher_diagonal", recorded)
    make_ewc().train(make_stream(transform_groups=transform_groups).train_stream[0])
    assert seen == [200.0] * 60
