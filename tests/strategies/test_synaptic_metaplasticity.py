import pytest
import torch
from torch import nn

from clbinn.errors import UserError
from clbinn.strategies.synaptic_metaplasticity import MetaplasticAdam, SynapticMetaplasticity, consolidation


def test_only_steps_towards_zero_are_held_back():
    hidden = torch.tensor([2.0, 2.0, -2.0, -2.0, 0.0])
    direction = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])  # the step goes against it
    held = 1 - torch.tanh(torch.tensor(0.6)) ** 2
    torch.testing.assert_close(
        consolidation(hidden, direction, 0.3), torch.stack([held, *torch.ones(2), held, torch.tensor(1.0)])
    )


def quadratic(weights: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((weights - target) ** 2).sum() / 2 + weights[0, 0] * weights[1, 1]


@pytest.mark.parametrize("metaplasticity", [0.0, 5.0])
def test_steps_are_those_of_a_literal_loop(metaplasticity):
    torch.manual_seed(0)
    layer, target = nn.Linear(4, 3, bias=False).double(), torch.randn(3, 4, dtype=torch.float64)
    optimizer = MetaplasticAdam(
        layer.parameters(), lr=0.05, metaplasticity=metaplasticity, weight_decay=0.1, init=0.3, seed=0
    )
    hidden = optimizer.state_dict()["state"][0]["hidden"].clone()
    assert hidden.abs().max() <= 0.3
    first, second = torch.zeros_like(hidden), torch.zeros_like(hidden)
    for step in range(1, 30):
        with optimizer.sampled_params():
            assert torch.equal(layer.weight, torch.where(hidden < 0, -1.0, 1.0).double())
            quadratic(layer.weight, target).backward()
        optimizer.step()

        weight = torch.where(hidden < 0, -1.0, 1.0).double().requires_grad_()
        gradient = torch.autograd.grad(quadratic(weight, target), weight)[0] + 0.1 * hidden
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        move = -0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        for index in [(i, j) for i in range(3) for j in range(4)]:
            factor = 1.0
            if hidden[index].sign() * first[index] > 0:
                factor = 1 - torch.tanh(metaplasticity * hidden[index].abs()) ** 2
            hidden[index] += factor * move[index]
        torch.testing.assert_close(optimizer.state_dict()["state"][0]["hidden"], hidden)


@pytest.fixture
def make_strategy(make_net):
    def make(**options):
        given = {"lr": 2e-2, "train_mb_size": 20, "train_epochs": 20} | options
        return SynapticMetaplasticity(
            model=make_net(hidden=64, norm="batch", bias=False), evaluator=None, seed=1, **given
        )

    return make


def test_moments_start_afresh_at_each_task_and_hidden_weights_go_on(make_strategy, make_stream):
    strategy, stream = make_strategy(), make_stream()
    strategy.train(stream.train_stream[0])
    state = strategy.optimizer.state_dict()
    assert state["param_groups"][0]["step"] == 0
    for entry in state["state"].values():
        assert not entry["exp_avg"].any()
        assert not entry["exp_avg_sq"].any()
        assert entry["hidden"].abs().max() > 0.05


def test_moments_of_what_stays_real_start_afresh_too(make_net, make_stream):
    strategy = SynapticMetaplasticity(model=make_net(), evaluator=None, train_mb_size=20, lr=0.007)
    strategy.train(make_stream().train_stream[0])
    assert strategy.plugin.real_optimizer.param_groups[0]["lr"] == 0.007
    assert len(strategy.plugin.real_optimizer.param_groups[0]["params"]) == 2
    assert not strategy.plugin.real_optimizer.state


def test_it_learns_with_binary_weights_and_forgets_less_than_without(make_strategy, make_stream, evaluate):
    forgetting = {}
    for metaplasticity in (0.0, 20.0):
        torch.manual_seed(0)
        strategy, stream = make_strategy(metaplasticity=metaplasticity, batch_norm="batch"), make_stream(count=120)
        strategy.train(stream.train_stream[0])
        first = evaluate(strategy, stream.test_stream[0])[1]
        assert first > 0.85
        assert all((p.abs() == 1).all() for p in strategy.model.parameters())
        strategy.train(stream.train_stream[1])
        forgetting[metaplasticity] = first - evaluate(strategy, stream.test_stream[0])[1]
    assert forgetting[20.0] < forgetting[0.0]


def test_bad_options_are_told(make_strategy):
    with pytest.raises(UserError, match="metaplasticity must be finite and at least 0"):
        make_strategy(metaplasticity=-1.0)


def test_the_seed_draws_the_start(make_net):
    two = [SynapticMetaplasticity(model=make_net(norm="batch"), evaluator=None, lr=0.03, seed=s) for s in (1, 1, 2)]
    h = [s.model.layers[1].weight.clone() for s in two]
    assert torch.equal(h[0], h[1])
    assert not torch.equal(h[0], h[2])
