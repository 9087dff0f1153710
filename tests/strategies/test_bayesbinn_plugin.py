"""The plugin where Avalanche's loops are unusual: evaluation first, growth in evaluation, online streams, errors."""

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import FromScratchTrainingPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive as AvalancheNaive
from torch import nn

from clbinn import optim
from clbinn.benchmarks import FastLoadingPlugin
from clbinn.errors import RunError
from clbinn.nn import MLP
from clbinn.predict import predict_log_proba
from clbinn.seeding import derive_seed
from clbinn.strategies import BayesBiNN, BayesBiNNPlugin, MultiHead


def strategy(net=None, **options):
    torch.manual_seed(0)
    settings = {
        "lr": 0.02, "temperature": 0.5, "init_natural": 1.0, "train_mb_size": 20, "train_epochs": 2,
        "mc_samples": 5, "evaluator": None, "seed": 3,
    }  # fmt: skip
    return BayesBiNN(model=net or MLP(12, [16], 3, norm="layer"), **{**settings, **options})


def plugin_of(learner):
    return next(p for p in learner.plugins if isinstance(p, BayesBiNNPlugin))


def test_heads_that_appear_in_an_evaluation_before_training_are_learned(make_stream):
    net = MultiHead(MLP(12, [16], 3, norm="scale"))
    opt = optim.BayesBiNN(net.parameters(), 60, lr=0.02, temperature=0.5, seed=0)
    learner = AvalancheNaive(model=net, optimizer=opt, plugins=[BayesBiNNPlugin(2)], evaluator=None, train_mb_size=20)
    benchmark = make_stream(2, labelled=True)
    learner.eval(benchmark.test_stream)
    for experience in benchmark.train_stream:
        learner.train(experience)
    assert len(opt.parameters()) == 3
    assert all((p.abs() == 1).all() for p in net.parameters())


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 6, bias=False)
        self.head = IncrementalClassifier(6, initial_out_features=1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def test_a_classifier_that_grows_in_evaluation_predicts_with_binary_weights(make_stream):
    whole = make_stream(1).train_stream[0].dataset
    parts = [whole.subset([i for i in range(60) if i % 3 == c]) for c in range(3)]
    benchmark = with_task_labels(with_classes_timeline(benchmark_from_datasets(train=parts, test=parts)))
    learner = strategy(Growing())
    for experience in benchmark.train_stream:
        learner.train(experience)
        learned = learner.optimizer.natural_parameters()[-1].clone()
        learner.eval(benchmark.test_stream)
        weight = learner.model.head.classifier.weight
        assert learner.optimizer.parameters()[-1] is weight
        assert (weight.abs() == 1).all()
        assert torch.equal(learner.optimizer.natural_parameters()[-1][: len(learned)], learned)


def test_a_classifier_that_grows_in_evaluation_stays_in_its_parameter_group(make_stream):
    whole = make_stream(1).train_stream[0].dataset
    parts = [whole.subset([i for i in range(60) if i % 3 == c]) for c in range(3)]
    benchmark = with_classes_timeline(benchmark_from_datasets(train=parts, test=parts))
    net = Growing()
    groups = [{"params": [net.body.weight]}, {"params": [net.head.classifier.weight], "lr": 0.05}]
    opt = optim.BayesBiNN(groups, 60, lr=0.01, temperature=0.5, seed=0)
    learner = AvalancheNaive(model=net, optimizer=opt, plugins=[BayesBiNNPlugin(2)], evaluator=None, train_mb_size=20)
    for experience in benchmark.train_stream:
        learner.train(experience)
        learner.eval(benchmark.test_stream)
        assert [p.shape for p in opt.param_groups[0]["params"]] == [(6, 12)]
        assert opt.param_groups[1]["params"] == [net.head.classifier.weight]


@pytest.mark.parametrize("first", [True, False])
def test_a_plugin_that_starts_the_network_anew_leaves_real_parameters_real(make_stream, first):
    net = MLP(12, [16], 3, norm="batch", bias=True)
    opt = optim.BayesBiNN([m.weight for m in net.modules() if isinstance(m, nn.Linear)], 60, temperature=0.5, seed=0)
    plugins = [BayesBiNNPlugin(2), FromScratchTrainingPlugin()]
    plugins = plugins if first else plugins[::-1]
    learner = AvalancheNaive(model=net, optimizer=opt, plugins=plugins, evaluator=None, train_mb_size=20)
    for experience in make_stream(2).train_stream:
        learner.train(experience)
        assert len(opt.parameters()) == 2
        assert all((p.abs() == 1).all() for p in opt.parameters())
        assert not any((p.abs() == 1).all() for p in net.parameters() if p.ndim == 1 and p.std() > 0)


class Negate(SupervisedPlugin):
    def __init__(self, moment):
        super().__init__()
        setattr(self, moment, self.negate)

    def negate(self, strategy, **kwargs):
        strategy.mbatch[0] = -strategy.mbatch[0]


class NegatedForward(AvalancheNaive):
    def forward(self):
        return self.model(-self.mb_x)


@pytest.mark.parametrize("how", ["before_eval_iteration", "before_eval_forward", "forward"])
def test_evaluation_sees_what_the_strategy_feeds_its_network(make_stream, how):
    benchmark, outputs = make_stream(1), []
    for negated in (False, True):
        net = MLP(12, [16], 3)
        opt = optim.BayesBiNN(net.parameters(), 60, lr=0.02, temperature=0.5, seed=0)
        if negated:
            kind, others = (NegatedForward, []) if how == "forward" else (AvalancheNaive, [Negate(how)])
        else:
            kind, others = AvalancheNaive, []
        keep = Keep()
        plugins = [FastLoadingPlugin(), *others, BayesBiNNPlugin(4, seed=1), keep]
        kind(model=net, optimizer=opt, plugins=plugins, evaluator=None).eval(benchmark.test_stream)
        x = torch.cat(keep.inputs)
        expected = predict_log_proba(
            net, opt, -x if how == "forward" and negated else x, 4, seed=derive_seed(1, "evaluation", 0)
        )
        torch.testing.assert_close(torch.cat(keep.outputs), expected)
        outputs.append(torch.cat(keep.outputs))
    assert not torch.allclose(*outputs)


class Keep(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.inputs, self.outputs = [], []

    def after_eval_forward(self, strategy, **kwargs):
        self.inputs.append(strategy.mb_x.clone())
        self.outputs.append(strategy.mb_output)


def test_an_online_stream_with_boundaries_is_one_task_for_each_experience(make_stream):
    learner, seen = strategy(train_epochs=1), []
    for experience in make_stream(2).train_stream:
        end = [v.clone() for v in learner.optimizer.natural_parameters()]
        for part in split_online_stream([experience], 20, access_task_boundaries=True):
            learner.train(part)
            prior = learner.optimizer.prior_natural_parameters()
            seen.append(all(torch.equal(a, b) for a, b in zip(prior, end, strict=True)))
            assert learner.optimizer.param_groups[0]["num_data"] == 60, "N is the task's, not the part's"
    assert seen == [False] * 3 + [True] * 3
    assert plugin_of(learner).tasks_trained == 2


def test_the_statistics_of_parts_are_their_tasks(make_stream):
    stream, learner = make_stream(2), strategy(MLP(12, [16], 3), batch_norm="task")
    learner.train(split_online_stream(stream.train_stream, 20, access_task_boundaries=True))
    assert set(plugin_of(learner).state_dict()["task_statistics"]) == {0, 1}, "the numbers that the test sets have"


def test_frozen_layers_stay_as_they_are(make_stream):
    net = MLP(12, [16], 3, norm="layer")
    net.layers[1].weight.requires_grad_(False)
    before = net.layers[1].weight.clone()
    learner = strategy(net)
    learner.train(make_stream(1).train_stream[0])
    assert torch.equal(net.layers[1].weight, before)
    assert len(learner.optimizer.parameters()) == 1


class Spoil(SupervisedPlugin):
    """Puts a NaN into the inputs of the second batch, or an infinity into the posterior after it."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def before_training_iteration(self, strategy, **kwargs):
        if self.what == "inputs" and strategy.clock.train_exp_iterations == 4:
            strategy.mbatch[0][0, 0] = float("nan")

    def after_update(self, strategy, **kwargs):
        if self.what == "posterior":
            strategy.optimizer.natural_parameters()[0][0, 0] = float("inf")


@pytest.mark.parametrize("samples", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_it_is_learned(samples, make_stream):
    learner = strategy(plugins=[Spoil("inputs")], num_samples=samples)
    with pytest.raises(RunError, match=r"task 1, epoch 2, step 2: the loss is nan. The inputs of this batch"):
        learner.train(make_stream(1).train_stream[0])
    assert learner.optimizer.finite
    assert all((p.abs() == 1).all() for p in learner.model.parameters())
    learner.plugins.pop(next(i for i, p in enumerate(learner.plugins) if isinstance(p, Spoil)))
    learner.train(make_stream(1).train_stream[0])


def test_a_posterior_that_is_not_finite_stops_at_the_end_of_the_epoch(make_stream):
    with pytest.raises(RunError, match="task 1, epoch 1: what the optimizer learned is not finite"):
        strategy(plugins=[Spoil("posterior")]).train(make_stream(1).train_stream[0])


class Interrupt(SupervisedPlugin):
    def __init__(self, moment):
        super().__init__()
        setattr(self, moment, self.leave)

    def leave(self, strategy, **kwargs):
        raise KeyboardInterrupt


def test_an_evaluation_that_was_interrupted_leaves_the_running_statistics(make_stream):
    learner, benchmark = strategy(MLP(12, [16], 3), batch_norm="task"), make_stream(2)
    for experience in benchmark.train_stream:
        learner.train(experience)
    running = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.plugins.append(Interrupt("after_eval_forward"))
    with pytest.raises(KeyboardInterrupt):
        learner.eval(benchmark.test_stream)
    learner.plugins.pop()
    learner.eval(benchmark.test_stream)
    assert all(torch.equal(value, running[name]) for name, value in learner.model.state_dict().items())


def test_after_an_exception_in_another_strategy_evaluation_sees_the_mode(make_stream):
    net, benchmark = MLP(12, [16], 3, norm="layer"), make_stream(1)
    opt = optim.BayesBiNN(net.parameters(), 60, temperature=1.0, init_natural=0.5, seed=0)
    interrupt = Interrupt("after_forward")
    learner = AvalancheNaive(
        model=net, optimizer=opt, plugins=[BayesBiNNPlugin(0), interrupt], evaluator=None, train_mb_size=20
    )
    with pytest.raises(KeyboardInterrupt):
        learner.train(benchmark.train_stream[0])
    assert not (net.layers[1].weight.abs() == 1).all()
    learner.plugins.remove(interrupt)
    learner.eval(benchmark.test_stream)
    assert (net.layers[1].weight.abs() == 1).all()


def test_the_state_of_what_stays_real_waits_for_its_optimizer(make_stream):
    def make():
        return strategy(MLP(12, [16], 3, norm="layer", bias=True))

    first, second = make(), make()
    first.train(make_stream(1).train_stream[0])
    state = plugin_of(first).state_dict()
    plugin_of(second).load_state_dict(state)
    assert plugin_of(second).state_dict()["real_optimizer"] == state["real_optimizer"]
    plugin_of(second)._claim(second.optimizer, dict(second.model.named_parameters()))
    for index, moments in state["real_optimizer"]["state"].items():
        taken = plugin_of(second).real_optimizer.state_dict()["state"][index]
        assert all(torch.equal(torch.as_tensor(moments[key]), torch.as_tensor(taken[key])) for key in moments)


def test_task_statistics_are_of_batches_of_one_size(make_stream):
    sizes, net = [], MLP(12, [16], 3)

    class Forget(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            sizes.clear()

    net.layers[1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    strategy(net, batch_norm="task", train_mb_size=28, plugins=[Forget()]).train(make_stream(1).train_stream[0])
    assert sizes == [20, 20, 20] * 10


def test_task_statistics_are_gathered_without_dropout(make_stream):
    net, modes = MLP(12, [16], 3, dropout=0.5), []

    class Forget(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            assert set(modes) == {True}
            modes.clear()

    net.layers[1].register_forward_hook(lambda module, *_: modes.append(module.training))
    learner = strategy(net, batch_norm="task", plugins=[Forget()])
    learner.train(make_stream(1).train_stream[0])
    assert set(modes) == {False}
    assert learner.model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": "votes"}, "average must be one of probabilities, logits"),
        ({"num_data": "task"}, "num_data must be one of experience, optimizer"),
        ({"lr_end": -1.0}, "lr_end must be finite and at least 0"),
        ({"mc_samples": 1.5}, "mc_samples must be at least 0 and a whole number"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BayesBiNNPlugin(**options)


def test_a_bad_rate_for_what_stays_real_is_named():
    with pytest.raises(ValueError, match="real_lr must be positive"):
        strategy(real_lr=-1.0)
