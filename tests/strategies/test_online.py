"""Online streams with task boundaries: the parts of an experience are one task to every strategy."""

import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream

from clbinn.benchmarks.online import Parts
from clbinn.strategies.ewc import EWC
from clbinn.strategies.naive import Naive
from clbinn.strategies.si import SI
from clbinn.strategies.synaptic_metaplasticity import SynapticMetaplasticity

OPTIONS = {"evaluator": None, "train_mb_size": 10, "train_epochs": 1, "lr": 1e-2}


def parts(stream, size, boundaries=True):
    return split_online_stream(stream.train_stream, size, access_task_boundaries=boundaries)


@pytest.mark.parametrize(("size", "count"), [(20, 3), (25, 3), (60, 1), (100, 1)])
def test_a_task_begins_and_ends_once_whatever_the_size_of_its_parts(size, count, make_stream):
    seen = Parts()
    told = [(seen.begin(experience), seen.end(experience)) for experience in parts(make_stream(2), size)]
    assert told == [(i == 0, i == count - 1) for i in range(count)] * 2


def test_without_boundaries_and_without_parts_each_experience_is_a_task(make_stream):
    seen, stream = Parts(), make_stream(2)
    for experience in (*parts(stream, 20, boundaries=False), *stream.train_stream):
        assert seen.begin(experience)
        assert seen.end(experience)


def test_adam_starts_afresh_with_a_task_not_with_its_parts(make_net, make_stream):
    strategy, kept = Naive(model=make_net(), **OPTIONS), []
    for part in parts(make_stream(2), 20):
        strategy.train(part)
        kept.append(bool(strategy.optimizer.state))
    assert kept == [True, True, False] * 2


def test_metaplastic_adam_starts_afresh_with_a_task_not_with_its_parts(make_net, make_stream):
    strategy, steps = SynapticMetaplasticity(model=make_net(norm="batch", bias=False), **OPTIONS), []
    for part in parts(make_stream(2), 20):
        strategy.train(part)
        steps.append(strategy.optimizer.param_groups[0]["step"])
    assert steps == [2, 4, 0] * 2


def test_ewc_anchors_once_with_the_information_of_the_whole_task(make_net, make_stream):
    strategy, stream, anchored = EWC(model=make_net(), strength=10.0, **OPTIONS), make_stream(1), []
    plugin = next(p for p in strategy.plugins if hasattr(p, "penalty"))
    for part in parts(stream, 20):
        strategy.train(part)
        anchored.append(bool(plugin.penalty.precision))
    assert anchored == [False, False, True]
    strategy.experience = stream.train_stream[0]
    for name, importance in plugin.importances(strategy).items():
        assert torch.equal(plugin.penalty.precision[name], importance)


def test_si_takes_the_path_of_the_whole_task(make_net, make_stream):
    strategy, anchored = SI(model=make_net(), strength=1.0, **OPTIONS), []
    plugin = next(p for p in strategy.plugins if hasattr(p, "penalty"))
    first = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}
    for part in parts(make_stream(1), 20):
        assert all(torch.equal(plugin.start.get(name, value), value) for name, value in first.items())
        strategy.train(part)
        anchored.append(bool(plugin.penalty.precision))
    assert anchored == [False, False, True]
    assert not plugin.start
