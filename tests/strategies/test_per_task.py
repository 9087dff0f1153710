import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive as AvalancheNaive

from clbinn import optim
from clbinn.strategies.bayesbinn_plugin import BayesBiNNPlugin
from clbinn.strategies.naive import Naive
from clbinn.strategies.per_task import PerTask, PerTaskPlugin

OPTIONS = {"evaluator": None, "train_mb_size": 20, "train_epochs": 5}


def test_each_task_has_the_network_that_it_would_have_alone(make_net, make_stream, evaluate):
    stream = make_stream(tasks=3)
    together = PerTask(model=make_net(), lr=1e-2, **OPTIONS)
    for task, experience in enumerate(stream.train_stream):
        torch.manual_seed(task)
        together.train(experience)
    for task, experience in enumerate(stream.train_stream):
        alone = Naive(model=make_net(), lr=1e-2, **OPTIONS)
        torch.manual_seed(task)
        alone.train(experience)
        expected, _ = evaluate(alone, stream.test_stream[task])
        assert torch.equal(evaluate(together, stream.test_stream[task])[0], expected)


def test_evaluation_in_the_middle_changes_nothing(make_net, make_stream):
    weights = []
    for evaluations in (False, True):
        strategy, stream = PerTask(model=make_net(), lr=1e-2, **OPTIONS), make_stream()
        if evaluations:
            strategy.plugins.append(Evaluate(stream))
        torch.manual_seed(0)
        for experience in stream.train_stream:
            strategy.train(experience)
        weights.append(strategy.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


class Evaluate(SupervisedPlugin):
    """Evaluates the first task's test set after each epoch; Avalanche's loader draws from torch's own stream."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def after_training_epoch(self, strategy, **_):
        with torch.random.fork_rng():
            strategy.eval([self.stream.test_stream[0]])


def test_a_binary_optimizer_keeps_a_posterior_for_each_task(make_net, make_stream, evaluate):
    model = make_net(norm="batch", bias=False)
    optimizer = optim.BayesBiNN(model.parameters(), num_data=60, temperature=1.0, init_natural=1.0, lr=0.05, seed=1)
    plugin = PerTaskPlugin()
    strategy = AvalancheNaive(
        model=model, optimizer=optimizer, plugins=[plugin, BayesBiNNPlugin(20, carry_prior=False)], **OPTIONS
    )
    stream = make_stream()
    start = [value.clone() for value in optimizer.natural_parameters()]
    starts, ends = [], []
    strategy._before_training_epoch = lambda **_: starts.append([v.clone() for v in optimizer.natural_parameters()])
    for experience in stream.train_stream:
        strategy.train(experience)
        ends.append([value.clone() for value in optimizer.natural_parameters()])
    for index in (0, 5):
        for value, expected in zip(starts[index], start, strict=True):
            assert torch.equal(value, expected)

    held = []
    strategy._before_eval_iteration = lambda **_: held.append([v.clone() for v in optimizer.natural_parameters()])
    for task in (0, 1):
        evaluate(strategy, stream.test_stream[task])
        for value, expected in zip(held[-1], ends[task], strict=True):
            assert torch.equal(value, expected)
    for value, expected in zip(optimizer.natural_parameters(), ends[1], strict=True):
        assert torch.equal(value, expected)
