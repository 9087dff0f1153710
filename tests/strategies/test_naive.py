from types import SimpleNamespace

import pytest
import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.logging import BaseLogger
from avalanche.training import Naive as AvalancheNaive
from avalanche.training.plugins import EvaluationPlugin

from clbinn import benchmarks
from clbinn.errors import UserError
from clbinn.nn import MLP
from clbinn.strategies._loop import listeners
from clbinn.strategies.naive import Naive

OPTIONS = {"evaluator": None, "train_mb_size": 20, "train_epochs": 2}


def trained(strategy, stream):
    torch.manual_seed(0)
    for experience in stream.train_stream:
        strategy.train(experience)
    return strategy.model.state_dict()


def test_with_an_optimizer_it_is_avalanches_own(make_net, make_stream):
    states = []
    for kind in (Naive, AvalancheNaive):
        model = make_net()
        states.append(
            trained(kind(model=model, optimizer=torch.optim.Adam(model.parameters()), **OPTIONS), make_stream())
        )
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


MOMENTS = [
    f"{when}_{stage}"
    for stage in ("training_iteration", "forward", "backward", "update")
    for when in ("before", "after")
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_subclass_may_act_at_any_moment_as_in_avalanche(moment, make_net, make_stream, listen):
    heard = []

    def act(self, **kwargs):
        heard.append("strategy")
        getattr(super(kind, self), f"_{moment}")(**kwargs)

    kind = type("Acting", (Naive,), {f"_{moment}": act})
    strategy = kind(model=make_net(), **OPTIONS)
    listen(strategy, moment, lambda: heard.append("plugin"))
    strategy.train(make_stream().train_stream[0])
    assert heard == ["strategy", "plugin"] * 6


class Heard(PluginMetric):
    """Tells its moments, and listens to one."""

    def __init__(self, moment):
        super().__init__()
        self.moments = []
        setattr(self, moment, lambda strategy: self.moments.append(moment))

    def result(self):
        return None

    def reset(self):
        pass


@pytest.mark.parametrize("loggers", [[], [BaseLogger()]], ids=["no logger", "logger"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_evaluator_is_called_where_its_metrics_or_loggers_listen(moment, loggers):
    metric = Heard(moment)
    evaluator = EvaluationPlugin(metric, loggers=loggers)
    for when in MOMENTS:
        found = listeners([evaluator], when)
        assert len(found) == (when == moment or len(loggers))
        for listener in found:
            listener(SimpleNamespace(experience=None))
    assert metric.moments == [moment]


def test_metrics_without_loggers_are_avalanches_own(make_net, make_stream):
    results = []
    for kind in (Naive, AvalancheNaive):
        model = make_net()
        metrics = accuracy_metrics(minibatch=True, epoch=True), loss_metrics(epoch_running=True, experience=True)
        evaluator = EvaluationPlugin(*metrics, loggers=[])
        strategy = kind(
            model=model, optimizer=torch.optim.Adam(model.parameters()), **{**OPTIONS, "evaluator": evaluator}
        )
        trained(strategy, make_stream())
        results.append(evaluator.get_all_metrics())
    assert results[0]
    assert results[0] == results[1]


def test_the_default_optimizer_starts_afresh_at_each_task(make_net, make_stream):
    ours = trained(Naive(model=make_net(), lr=1e-2, **OPTIONS), make_stream())
    model = make_net()
    avalanche = AvalancheNaive(
        model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2, fused=True), **OPTIONS
    )
    torch.manual_seed(0)
    for experience in make_stream().train_stream:
        avalanche.train(experience, reset_optimizer_state=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, ours[name])


def test_two_step_sizes_are_refused(make_net):
    model = make_net()
    with pytest.raises(UserError, match="give `optimizer` or `lr`, not both"):
        Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), lr=0.1)
    with pytest.raises(UserError, match="lr must be greater than 0"):
        Naive(model=model, lr=-1.0)


def test_data_of_the_toolkits_streams_come_in_an_order_of_the_seed(listen):
    stream, orders = benchmarks.load("permuted_digits"), []
    for seed, global_seed in ((1, 0), (1, 5), (2, 0)):
        strategy = Naive(model=MLP(64, [4], 10), evaluator=None, train_mb_size=500, seed=seed)
        labels = []

        def keep(strategy=strategy, labels=labels):
            labels.append(strategy.mb_y.clone())

        listen(strategy, "before_forward", keep)
        torch.manual_seed(global_seed)
        strategy.train(stream.train_stream[0])
        orders.append(torch.cat(labels))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
