import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training import Naive as AvalancheNaive
from torch import nn

from clbinn import optim
from clbinn.errors import UserError
from clbinn.nn import MLP
from clbinn.strategies import BayesBiNN, MultiHead
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


def binary(model, **options):
    given = {"lr": 0.05, "temperature": 1.0, "init_natural": 1.0, "mc_samples": 20, "carry_prior": False, "seed": 1}
    return BayesBiNN(model=model, plugins=[PerTaskPlugin()], **given | OPTIONS | options)


def test_biases_stay_real_beside_a_posterior_for_each_task(make_net, make_stream):
    strategy = binary(make_net())
    bias = strategy.model.layers[1].bias.detach().clone()
    starts = []
    strategy._before_training_epoch = lambda **_: starts.append(strategy.model.layers[1].bias.detach().clone())
    for experience in make_stream().train_stream:
        strategy.train(experience)
    assert torch.equal(starts[0], bias)
    assert torch.equal(starts[5], bias)


def test_heads_of_later_tasks_are_learned_beside_the_posteriors_of_earlier_ones(make_stream, evaluate):
    torch.manual_seed(0)
    strategy, stream = (
        binary(MultiHead(MLP(12, [16], 3, norm="scale")), train_epochs=20, mc_samples=300),
        make_stream(3, labelled=True),
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    posterior = strategy.plugins[1].learned[0]["optimizer"]["state"][0]["natural"]
    held = []
    strategy._before_eval_iteration = lambda **_: held.append(strategy.optimizer.natural_parameters()[0].clone())
    assert min(evaluate(strategy, experience)[1] for experience in stream.test_stream) > 0.8
    assert torch.equal(held[0], posterior)


class Masked(MultiTaskModule):
    """Avalanche's heads, which know the units that their task uses."""

    def __init__(self):
        super().__init__()
        self.classifier = MultiHeadClassifier(12, 3)

    def forward(self, x, task_labels):
        return self.classifier(x, task_labels)


def test_heads_that_an_evaluation_made_before_training_are_learned(make_stream, evaluate):
    strategy, stream = PerTask(model=Masked(), lr=1e-1, **OPTIONS), make_stream(3, labelled=True)
    for experience in (*stream.train_stream, *stream.test_stream):
        experience.classes_in_this_experience = [0, 1, 2]  # Avalanche's heads can't use its sets
    strategy.eval(stream.test_stream)
    for experience in stream.train_stream:
        strategy.train(experience)
    assert min(evaluate(strategy, experience)[1] for experience in stream.test_stream) > 0.8


def test_the_parts_of_an_experience_are_one_task(make_net, make_stream, listen):
    strategy, starts = PerTask(model=make_net(), **OPTIONS), []
    initial = torch.cat([p.detach().flatten() for p in strategy.model.parameters()])

    def note():
        if strategy.clock.train_exp_epochs == 0:
            starts.append(torch.equal(torch.cat([p.detach().flatten() for p in strategy.model.parameters()]), initial))

    listen(strategy, "before_training_epoch", note)
    strategy.train(split_online_stream(make_stream(2).train_stream, 20, access_task_boundaries=True))
    assert starts == [True, False, False] * 2
    plugin = next(plugin for plugin in strategy.plugins if isinstance(plugin, PerTaskPlugin))
    assert list(plugin.learned) == [0, 1], "by the numbers that the test sets have"


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = IncrementalClassifier(12, initial_out_features=1)

    def forward(self, x):
        return self.head(x)


def test_a_network_that_grows_is_refused(make_stream):
    whole = make_stream(1).train_stream[0].dataset
    parts = [whole.subset([i for i in range(60) if whole.targets[i] == label]) for label in range(3)]
    stream = with_classes_timeline(benchmark_from_datasets(train=parts, test=parts))
    strategy = PerTask(model=Growing(), **OPTIONS)
    strategy.train(stream.train_stream[0])
    with pytest.raises(UserError, match=r"head.active_units grew from \(1,\) to \(2,\)"):
        strategy.train(stream.train_stream[1])


def test_after_an_evaluation_that_failed_the_present_network_is_back(make_net, make_stream):
    strategy, stream = PerTask(model=make_net(), lr=1e-2, **OPTIONS), make_stream(tasks=3)
    for experience in stream.train_stream[:2]:
        strategy.train(experience)
    present = {name: value.clone() for name, value in strategy.model.state_dict().items()}
    strategy._before_eval_iteration = lambda **_: 1 / 0
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            strategy.eval([stream.test_stream[0]])
    del strategy._before_eval_iteration
    strategy.eval(stream.test_stream)
    for name, value in strategy.model.state_dict().items():
        assert torch.equal(value, present[name])


def test_training_goes_on_with_the_present_network_after_an_evaluation_that_failed(make_net, make_stream):
    strategy, stream = PerTask(model=make_net(), lr=1e-2, **OPTIONS), make_stream()
    for experience in stream.train_stream:
        strategy.train(experience)
    present = strategy.model.layers[1].weight.detach().clone()
    strategy._before_eval_iteration = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        strategy.eval([stream.test_stream[0]])
    starts = []
    strategy._before_training_epoch = lambda **_: starts.append(strategy.model.layers[1].weight.detach().clone())
    strategy.train(stream.train_stream[1])  # more of the last task
    assert torch.equal(starts[0], present)


def test_an_own_optimizer_starts_anew(make_net, make_stream):
    stream, weights = make_stream(), []
    for tasks in ((0, 1), (1,)):
        net = make_net()
        strategy = PerTask(
            model=net, optimizer=torch.optim.Adam(net.parameters(), lr=1e-2), evaluator=None, train_mb_size=60
        )
        for task in tasks:
            strategy.train(stream.train_stream[task])
        weights.append(net.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name])


def test_parameter_groups_stay_the_same_objects(make_net, make_stream):
    net = make_net(bias=False)
    opt = optim.BayesBiNN(net.parameters(), num_data=60, lr=1e-3, seed=0)
    strategy = PerTask(model=net, optimizer=opt, plugins=[BayesBiNNPlugin(2)], evaluator=None, train_mb_size=20)
    stream, group = make_stream(), opt.param_groups[0]
    for experience in stream.train_stream:
        strategy.train(experience)
    strategy.eval(stream.test_stream)
    assert strategy.optimizer.param_groups[0] is group
