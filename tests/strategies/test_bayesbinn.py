"""BayesBiNN inside Avalanche: what survives its loops, on tensor benchmarks, growing heads, beside other plugins."""

import io
import json

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EarlyStoppingPlugin, EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive as AvalancheNaive
from torch import nn

from clbinn import optim
from clbinn.experiments.run import run
from clbinn.nn import MLP
from clbinn.optim.schedules import cosine_decay
from clbinn.predict import predict_log_proba
from clbinn.recipes import load_benchmark, load_strategy
from clbinn.seeding import derive_seed
from clbinn.strategies import BayesBiNN, BayesBiNNPlugin
from clbinn.strategies.multi_head import MultiHead


def quiet():
    return EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[TextLogger(io.StringIO())])


def strategy(net=None, **options):
    torch.manual_seed(0)
    settings = {
        "lr": 0.02, "temperature": 0.5, "init_natural": 1.0, "train_mb_size": 20, "train_epochs": 3,
        "mc_samples": 5, "evaluator": None, "seed": 3,
    }  # fmt: skip
    return BayesBiNN(model=net or MLP(12, [16], 3, norm="layer"), **{**settings, **options})


class Recorder(SupervisedPlugin):
    """Writes down the posterior, the prior, the rate and the weights at the moments that matter."""

    def __init__(self):
        super().__init__()
        self.starts, self.ends, self.rates, self.inside, self.num_data = [], [], [], set(), []

    def before_training_epoch(self, strategy, **kwargs):
        if strategy.clock.train_exp_epochs == 0:
            opt = strategy.optimizer
            self.starts.append(
                ([v.clone() for v in opt.natural_parameters()], [v.clone() for v in opt.prior_natural_parameters()])
            )

    def before_training_iteration(self, strategy, **kwargs):
        self.rates.append(strategy.optimizer.param_groups[0]["lr"])
        self.num_data.append(strategy.optimizer.param_groups[0]["num_data"])

    def after_forward(self, strategy, **kwargs):
        self.inside.update(bool((p.abs() == 1).all()) for p in strategy.optimizer.parameters())

    def after_training_exp(self, strategy, **kwargs):
        assert all((p.abs() == 1).all() for p in strategy.optimizer.parameters())
        self.ends.append([v.clone() for v in strategy.optimizer.natural_parameters()])


def test_prior_is_the_previous_natural_bit_for_bit_across_every_boundary(make_stream):
    recorder = Recorder()
    learner = strategy(plugins=[recorder])
    initial = [v.clone() for v in learner.optimizer.natural_parameters()]
    for experience in make_stream(3).train_stream:
        learner.train(experience)
        learner.eval(make_stream(3).test_stream)
    for natural, first in zip(recorder.starts[0][0], initial, strict=True):
        assert torch.equal(natural, first), "the first train() lost the initial posterior"
    assert all((p == 0).all() for p in recorder.starts[0][1])
    for end, (natural, prior) in zip(recorder.ends, recorder.starts[1:], strict=False):
        for e, n, p in zip(end, natural, prior, strict=True):
            assert torch.equal(e, n)
            assert torch.equal(e, p)
    assert recorder.inside == {False}, "forward ran with the mode in place of a relaxed sample"
    assert set(recorder.num_data) == {60}


def test_schedule_is_a_cosine_that_restarts_with_each_task(make_stream):
    recorder = Recorder()
    learner = strategy(plugins=[recorder], lr_end=1e-16)
    for experience in make_stream(2).train_stream:
        learner.train(experience)
    expected = [cosine_decay(0.02, 1e-16, epoch / 3) for epoch in range(3) for _ in range(3)]
    assert recorder.rates == pytest.approx(expected * 2)
    assert cosine_decay(1e-3, 1e-16, 1) == pytest.approx(1e-16)


def test_without_carried_prior_it_stays_zero(make_stream):
    recorder = Recorder()
    learner = strategy(plugins=[recorder], carry_prior=False)
    learner.train(list(make_stream(3).train_stream))
    assert all((p == 0).all() for _, priors in recorder.starts for p in priors)


def test_plugin_in_avalanches_naive_equals_the_strategy(make_stream):
    torch.manual_seed(0)
    net = MLP(12, [16], 3, norm="layer")
    opt = optim.BayesBiNN(
        net.parameters(), 60, lr=0.02, temperature=0.5, init_natural=1.0, seed=derive_seed(3, "bayesbinn")
    )
    plugin = BayesBiNNPlugin(mc_samples=5, lr_end=1e-16, seed=3)
    options = {"train_mb_size": 20, "train_epochs": 3, "evaluator": None}
    other = AvalancheNaive(model=net, optimizer=opt, plugins=[plugin], **options)
    learner = strategy()
    for experience in make_stream(2).train_stream:
        torch.manual_seed(7)
        learner.train(experience)
        torch.manual_seed(7)
        other.train(experience)
    for a, b in zip(learner.optimizer.natural_parameters(), opt.natural_parameters(), strict=True):
        assert torch.equal(a, b)


def test_learns_and_reports_the_mean_prediction(make_stream):
    learner = strategy(train_epochs=30, evaluator=quiet(), mc_samples=20)
    benchmark = make_stream(1)
    learner.train(benchmark.train_stream[0])
    accuracy = learner.eval(benchmark.test_stream)["Top1_Acc_Exp/eval_phase/test_stream/Task000/Exp000"]
    x = torch.stack([item[0] for item in benchmark.test_stream[0].dataset])
    y = torch.tensor([item[1] for item in benchmark.test_stream[0].dataset])
    seed = derive_seed(3, "evaluation", 1)
    own = predict_log_proba(learner.model, learner.optimizer, x, 20, seed=seed).argmax(1)
    assert accuracy == pytest.approx((own == y).float().mean().item())
    assert accuracy > 0.8


@pytest.mark.parametrize("batch_norm", ["running", "task", "batch"])
def test_every_way_of_batch_normalisation_runs_and_keeps_the_running_statistics(batch_norm, make_stream):
    learner = strategy(MLP(12, [16], 3), batch_norm=batch_norm, evaluator=quiet())
    benchmark = make_stream(2)
    for experience in benchmark.train_stream:
        learner.train(experience)
        before = {k: v.clone() for k, v in learner.model.state_dict().items()}
        learner.eval(benchmark.test_stream)
        for name, value in learner.model.state_dict().items():
            assert torch.equal(value, before[name]), name


class Growing(nn.Module):
    """A body and Avalanche's own growing classifier, whose parameters are replaced when it grows."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 6)
        self.head = IncrementalClassifier(6, initial_out_features=1)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


def one_class_each(make_stream):
    whole = make_stream(1).train_stream[0].dataset
    parts = [whole.subset([i for i in range(60) if i % 3 == c]) for c in range(3)]
    return with_task_labels(with_classes_timeline(benchmark_from_datasets(train=parts, test=parts)))


def test_a_growing_head_keeps_what_its_old_rows_learned(make_stream):
    learner = strategy(Growing(), real_lr=0.007)
    heads = []

    class Watch(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            if strategy.clock.train_exp_epochs == 0:
                heads.append(strategy.optimizer.natural_parameters()[-1].clone())

        def after_training_exp(self, strategy, **kwargs):
            heads.append(strategy.optimizer.natural_parameters()[-1].clone())

    learner.plugins.insert(-1, Watch())
    for experience in one_class_each(make_stream).train_stream:
        learner.train(experience)
    assert [h.shape[0] for h in heads] == [1, 1, 2, 2, 3, 3]
    assert torch.equal(heads[2][:1], heads[1])
    assert torch.equal(heads[4][:2], heads[3])
    assert len(learner.optimizer.parameters()) == 2, "biases stay real"
    real = next(p for p in learner.plugins if isinstance(p, BayesBiNNPlugin)).real_optimizer
    assert [p.ndim for group in real.param_groups for p in group["params"]] == [1, 1]
    assert real.param_groups[0]["lr"] == 0.007


def test_heads_appear_task_by_task(make_stream):
    net = MultiHead(MLP(12, [16], 3, norm="scale"))
    learner, benchmark = strategy(net, evaluator=quiet(), train_epochs=30), make_stream(2, labelled=True)
    learner.train(benchmark.train_stream[0])
    assert list(net.heads) == ["0"]
    first = learner.optimizer.natural_parameters()[-1].clone()
    learner.train(benchmark.train_stream[1])
    assert list(net.heads) == ["0", "1"]
    assert torch.equal(learner.optimizer.natural_parameters()[-2], first), "the old head moved without data"
    assert all((p.abs() == 1).all() for p in net.parameters())
    metrics = learner.eval(benchmark.test_stream)
    assert metrics["Top1_Acc_Stream/eval_phase/test_stream/Task001"] > 0.5


def test_runs_beside_replay_early_stopping_loggers_and_periodic_evaluation(tmp_path, make_stream):
    loggers = [InteractiveLogger(), CSVLogger(str(tmp_path / "csv")), TensorboardLogger(str(tmp_path / "tb"))]
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        forgetting_metrics(experience=True),
        loggers=loggers,
    )
    plugins = [ReplayPlugin(mem_size=20), EarlyStoppingPlugin(patience=2, val_stream_name="test_stream")]
    learner = strategy(evaluator=evaluator, plugins=plugins, eval_every=1)
    benchmark = make_stream(2)
    for experience in benchmark.train_stream:
        learner.train(experience, eval_streams=[[benchmark.test_stream[0]]])
    assert (learner.model.layers[1].weight.abs() == 1).all()
    for file in (loggers[1].training_file, loggers[1].eval_file, loggers[2].writer):
        file.close()
    assert (tmp_path / "csv" / "training_results.csv").read_text().count("\n") > 2


def test_several_samples_a_step_average_their_gradients(make_stream):
    learner = strategy(num_samples=3)
    learner.train(make_stream(1).train_stream[0])
    assert learner.optimizer.param_groups[0]["num_samples"] == 3
    opened = []
    original = learner.optimizer.open_sample
    learner.optimizer.open_sample = lambda: (opened.append(1), original())
    learner.train(make_stream(1).train_stream[0])
    assert len(opened) == 3 * 3 * 3


def test_an_exception_leaves_the_mode_in_the_model(make_stream):
    class Break(SupervisedPlugin):
        def after_forward(self, strategy, **kwargs):
            raise ZeroDivisionError

    learner = strategy(plugins=[Break()])
    with pytest.raises(ZeroDivisionError):
        learner.train(make_stream(1).train_stream[0])
    assert all((p.abs() == 1).all() for p in learner.model.parameters())


def test_state_goes_round(make_stream):
    first, second = strategy(MLP(12, [16], 3), batch_norm="task"), strategy(MLP(12, [16], 3), batch_norm="task")
    first.train(make_stream(1).train_stream[0])
    plugin, other = (next(p for p in s.plugins if isinstance(p, BayesBiNNPlugin)) for s in (first, second))
    other.load_state_dict(plugin.state_dict())
    assert other.tasks_trained == 1
    for name, pair in plugin._task_statistics[0].items():
        assert torch.equal(pair[0], other._task_statistics[0][name][0])


def test_the_optimizer_can_be_saved_after_a_second_task_beside_real_parameters(make_stream):
    learner = strategy(MLP(12, [16], 3, norm="layer", bias=True))
    for experience in make_stream(2).train_stream:
        learner.train(experience)
        saved = learner.optimizer.state_dict()
    for index, natural in enumerate(learner.optimizer.natural_parameters()):
        assert torch.equal(saved["state"][index]["natural"], natural)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mc_samples": -1}, ValueError, "mc_samples must be at least 0"),
        ({"batch_norm": "none"}, ValueError, "batch_norm must be one of running, task, batch"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)}, TypeError, "needs a binary optimizer"),
    ],
)
def test_bad_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        strategy(**options)


def test_options_beside_an_optimizer_are_refused():
    net = MLP(12, [4], 3)
    optimizer = optim.BayesBiNN(net.parameters(), num_data=7, seed=0)
    with pytest.raises(ValueError, match="temperature belongs to the optimizer"):
        BayesBiNN(model=net, optimizer=optimizer, temperature=0.3, evaluator=None)


def test_settings_for_small_data_learn_small_data(tmp_path):
    recipe = load_strategy("bayesbinn_small")
    stream = load_benchmark("permuted_digits", ["benchmark.tasks.count=1"])
    path = run(stream, recipe, 0, tmp_path, progress=False)
    assert json.loads((path / "summary.json").read_text())["average_accuracy"] > 0.85
