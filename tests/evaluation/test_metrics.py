from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forward_transfer_metrics, loss_metrics
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin
from torch.utils.data import TensorDataset

from clbinn import evaluation
from clbinn.errors import UserError
from clbinn.evaluation import ContinualMetrics, PredictionMetrics

TASKS = 3


def make_benchmark():
    generator = torch.Generator().manual_seed(0)
    streams = {}
    for stream, n in (("train", 60), ("test", 47)):
        datasets = []
        for _ in range(TASKS):
            x = torch.randn(n, 5, generator=generator)
            y = (x @ torch.randn(5, 3, generator=generator)).argmax(1)
            data = TensorDataset(x, y)
            data.targets = y.tolist()
            datasets.append(as_classification_dataset(data))
        streams[stream] = datasets
    return benchmark_from_datasets(**streams)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    ours, prediction = ContinualMetrics(TASKS), PredictionMetrics()
    theirs = [
        accuracy_metrics(experience=True, stream=True),
        loss_metrics(experience=True),
        bwt_metrics(stream=True),
        forward_transfer_metrics(stream=True),
    ]
    with pytest.warns(UserWarning, match="No loggers"):
        evaluator = EvaluationPlugin(ours, prediction, *theirs)
    model = torch.nn.Linear(5, 3)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=10,
        eval_mb_size=20,
        train_epochs=3,
        evaluator=evaluator,
        eval_every=1,
    )
    benchmark = make_benchmark()
    results = [strategy.eval(benchmark.test_stream)]
    for experience in benchmark.train_stream:
        strategy.train(experience, [benchmark.test_stream])
        results.append(dict(strategy.eval(benchmark.test_stream)))
    return benchmark, strategy, ours, prediction, results


def entry(results, name, task):
    return results[f"{name}/eval_phase/test_stream/Exp{task:03d}"]


def test_every_entry_is_avalanches_accuracy(trained):
    _, _, ours, _, results = trained
    theirs = [[entry(row, "Top1_Acc_Exp", j) for j in range(TASKS)] for row in results]
    np.testing.assert_allclose(ours.matrix, theirs, rtol=1e-12)


def test_transfer_is_avalanches(trained):
    _, _, ours, _, results = trained
    last = results[-1]
    assert ours.result()["backward_transfer"] == pytest.approx(last["StreamBWT/eval_phase/test_stream"])
    assert ours.result()["forward_transfer"] == pytest.approx(last["StreamForwardTransfer/eval_phase/test_stream"])
    assert ours.result()["average_accuracy"] == pytest.approx(last["Top1_Acc_Stream/eval_phase/test_stream"])


def test_numbers_are_given_out_for_the_tasks_so_far(trained):
    _, _, ours, _, results = trained
    assert not any(name.startswith("forgetting") for name in results[0])
    after_two = ours.matrix[:3, :2]
    assert results[2]["forgetting_Stream/eval_phase/test_stream"] == evaluation.forgetting(after_two)


def test_scores_of_a_test_set(trained):
    benchmark, strategy, ours, prediction, results = trained
    for j, experience in enumerate(benchmark.test_stream):
        x, y = (torch.stack([torch.as_tensor(e[k]) for e in experience.dataset]) for k in (0, 1))
        probs = strategy.model(x).softmax(1)
        scores = prediction.result()[j]
        assert scores.accuracy == ours.matrix[-1, j] == entry(results[-1], "accuracy_Exp", j)
        assert scores.nll == pytest.approx(evaluation.nll(probs, y).item(), rel=1e-6)
        assert scores.nll == pytest.approx(entry(results[-1], "Loss_Exp", j), rel=1e-5)
        assert scores.ece == pytest.approx(evaluation.ece(probs, y).item(), abs=1e-6)


def test_evaluations_of_other_streams_do_not_count():
    torch.manual_seed(0)
    ours, model, benchmark = ContinualMetrics(TASKS), torch.nn.Linear(5, 3), make_benchmark()
    evaluator = EvaluationPlugin(ours, loggers=[])
    strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=evaluator)
    strategy.eval(benchmark.train_stream)
    assert np.isnan(ours.matrix).all()
    strategy.eval(benchmark.test_stream)
    assert not np.isnan(ours.matrix[0]).any()


def test_missing_row_gives_no_numbers():
    metric = ContinualMetrics(2)
    metric.after_training_exp(SimpleNamespace(experience=None))
    metric.matrix[1] = 0.5
    assert metric.result() == {}
    metric.matrix[0] = 0.1
    assert metric.result()["average_accuracy"] == 0.5


def online(num_tasks, boundaries):
    """The matrix of a stream that is trained in parts of 20 samples."""
    torch.manual_seed(0)
    ours, model, benchmark = ContinualMetrics(num_tasks), torch.nn.Linear(5, 3), make_benchmark()
    evaluator = EvaluationPlugin(ours, PredictionMetrics(), loggers=[])
    strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), evaluator=evaluator)
    strategy.eval(benchmark.test_stream)
    for experience in benchmark.train_stream:
        for part in split_online_stream([experience], 20, access_task_boundaries=boundaries):
            strategy.train(part)
        strategy.eval(benchmark.test_stream)
    return ours.matrix


def test_the_parts_of_an_experience_are_one_task():
    assert not np.isnan(online(TASKS, boundaries=True)).any()


def test_more_tasks_than_told_are_refused():
    with pytest.raises(UserError, match="made for num_tasks=3, and 6 were trained"):
        online(TASKS, boundaries=False)


def evaluate(metric, task, count=4):
    """One evaluation of a task as Avalanche tells it, all `count` images right."""
    learner = SimpleNamespace(
        experience=SimpleNamespace(current_experience=task, origin_stream=SimpleNamespace(name="test")),
        mb_output=torch.eye(3)[[0] * count],
        mb_y=torch.zeros(count, dtype=torch.long),
    )
    metric.before_eval_exp(learner)
    if count:
        metric.after_eval_iteration(learner)
    metric.after_eval_exp(learner)


def test_an_empty_test_set_is_no_entry():
    metric = ContinualMetrics(2)
    evaluate(metric, 0, count=0)
    assert np.isnan(metric.matrix).all()


def test_one_task_more_than_told_is_refused():
    metric = ContinualMetrics(1)
    for _ in range(2):
        metric.after_training_exp(SimpleNamespace(experience=object()))
    with pytest.raises(UserError, match="num_tasks=1, and 2"):
        evaluate(metric, 0)


def test_inside_a_task_nothing_is_given_out_and_reset_forgets():
    metric = ContinualMetrics(1)
    evaluate(metric, 0)
    metric.after_training_exp(SimpleNamespace(experience=object()))
    evaluate(metric, 0)
    metric.before_training_epoch(SimpleNamespace())
    assert metric.after_eval(SimpleNamespace()) == []
    metric.reset()
    assert np.isnan(metric.matrix).all()
    evaluate(metric, 0)
    assert np.isfinite(metric.matrix).tolist() == [[True], [False]]
