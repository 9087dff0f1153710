"""The plugin that puts resident loaders in the place of Avalanche's."""

import pytest
import torch
from avalanche.benchmarks.utils.data_loader import (
    ReplayDataLoader,
    TaskBalancedDataLoader,
)
from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger
from avalanche.models import SimpleMLP
from avalanche.training.determinism.rng_manager import RNGManager
from avalanche.training.plugins import AGEMPlugin, EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import EWC, JointTraining, Naive
from torchvision.transforms import Normalize

from clbinn.benchmarks import FastLoadingPlugin, TensorLoader
from clbinn.benchmarks.loading import ParallelLoader, epoch_order


class Recorder(SupervisedPlugin):
    """Keeps the loaders and the mini-batches of a strategy."""

    def __init__(self):
        super().__init__()
        self.train, self.eval, self.loaders = [], [], []

    def before_training_iteration(self, strategy, **kwargs):
        self.loaders.append(strategy.dataloader)
        self.train.append((strategy.mb_x.clone(), strategy.mb_y.clone(), strategy.mb_task_id.clone()))

    def before_eval_iteration(self, strategy, **kwargs):
        self.loaders.append(strategy.dataloader)
        self.eval.append((strategy.mb_x.clone(), strategy.mb_y.clone(), strategy.mb_task_id.clone()))


def naive(*plugins, kind=Naive, epochs=2, **options):
    torch.manual_seed(0)
    model = SimpleMLP(num_classes=3, input_size=16, hidden_size=4, hidden_layers=1)
    recorder = Recorder()
    settings = {"train_mb_size": 5, "train_epochs": epochs, "eval_mb_size": 7, "criterion": torch.nn.CrossEntropyLoss()}
    strategy = kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        plugins=[*plugins, recorder],
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),
        **(settings | options),
    )
    return strategy, recorder


class Looking(SupervisedPlugin):
    """Goes through the loader between the epochs."""

    def after_training_epoch(self, strategy, **kwargs):
        list(strategy.dataloader)


def test_the_plugin_gives_a_strategy_the_images_that_avalanche_would_give(equal, shapes, stream):
    benchmark = stream()
    slow, slow_record = naive()
    fast, fast_record = naive(FastLoadingPlugin(seed=3))
    for strategy in (slow, fast):
        strategy.train(benchmark.train_stream[0])
        strategy.eval(benchmark.test_stream)
    assert {type(loader) for loader in fast_record.loaders} == {TensorLoader}
    assert TensorLoader not in {type(loader) for loader in slow_record.loaders}
    shapes = [[tuple(part.shape) for part in batch] for batch in fast_record.train]
    assert shapes == [[tuple(part.shape) for part in batch] for batch in slow_record.train]
    for epoch in (slice(0, 5), slice(5, 10)):
        rows = [{tuple(x.flatten().tolist()) for b in r.train[epoch] for x in b[0]} for r in (slow_record, fast_record)]
        assert rows[0] == rows[1]
        assert len(rows[0]) == 23
    assert equal(fast_record.eval, slow_record.eval)


def test_training_data_depend_on_seed_experience_and_epoch_alone(equal, stream):
    benchmark = stream()
    records = []
    for eval_every in (-1, 1):
        strategy, record = naive(FastLoadingPlugin(seed=3), eval_every=eval_every)
        for experience in benchmark.train_stream:
            strategy.train(experience)
            if eval_every > 0:
                strategy.eval(benchmark.test_stream)
                torch.rand(7)
        records.append(record.train)
    assert equal(*records)
    batches = [tuple(batch[1].tolist()) for batch in records[0]]
    epochs = [tuple(batches[i : i + 5]) for i in range(0, 20, 5)]
    assert len(set(epochs)) == 4


def test_training_numbers_are_those_of_the_same_batches_in_a_bare_loop(task, stream):
    benchmark = stream(1)
    strategy, _ = naive(FastLoadingPlugin(seed=3))
    strategy.train(benchmark.train_stream[0])
    torch.manual_seed(0)
    model = SimpleMLP(num_classes=3, input_size=16, hidden_size=4, hidden_layers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = task(seed=0)
    for epoch in range(2):
        for index in epoch_order(23, 3, 0, epoch).split(5):
            x, y = data.batch(index)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), strategy.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "drop_last": True}])
def test_replay_gets_the_batches_that_its_own_loader_would_give(shapes, images, stream, first, options):
    benchmark, records = stream(3), []
    for fast in (True, False):
        plugins = [ReplayPlugin(mem_size=12)]
        if fast:
            plugins.insert(0 if first else 1, FastLoadingPlugin())
        strategy, record = naive(*plugins)
        for experience in benchmark.train_stream:
            strategy.train(experience, **options)
        records.append(record)
    fast, slow = records
    assert type(fast.loaders[0]) is TensorLoader
    assert type(fast.loaders[-1]) is ParallelLoader
    assert type(slow.loaders[-1]) is ReplayDataLoader
    assert shapes(fast.train) == shapes(slow.train)
    epoch = fast.train[-len(fast.loaders[-1]) :]
    new = images([[x[: min(5, 23 - 5 * i)]] for i, (x, _, _) in enumerate(epoch)])  # the task's own come first
    assert len(set(new)) == len(new) == (20 if options else 23)
    old = set(images([[x[5:]] for x, _, _ in epoch[:-1]]))
    assert len(old) == 12
    assert not old & set(new)


def test_replays_order_is_that_of_its_seed(in_order, stream):
    epochs = []
    for seed in (0, 0, 1):
        strategy, record = naive(FastLoadingPlugin(seed), ReplayPlugin(mem_size=12))
        for experience in stream(2).train_stream:
            strategy.train(experience)
        epochs.append(in_order(x for x, _, _ in record.train))
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]


def test_agems_order_is_that_of_its_seed_and_experience(in_order, stream):
    passes = []
    for seed in (0, 0, 1):
        agem, taken = AGEMPlugin(patterns_per_experience=6, sample_size=4), []
        sample = agem.sample_from_memory
        agem.sample_from_memory = lambda sample=sample, taken=taken: taken.append(sample()) or taken[-1]
        strategy, _ = naive(FastLoadingPlugin(seed), agem)
        RNGManager.set_random_seeds(0)  # what the memory holds
        for experience in stream(3).train_stream:
            strategy.train(experience)
        second, third = taken[: len(taken) // 2], taken[len(taken) // 2 :]
        members = sorted(set(in_order([agem.buffers[0][i][0] for i in range(6)])))
        first_of_set = [in_order(x for x, _, _ in second)[:6], in_order(x[:2] for x, _, _ in third)[:6]]
        passes.append([[members.index(image) for image in order] for order in first_of_set])
    assert passes[0] == passes[1]
    assert all(sorted(order) == list(range(6)) for order in passes[0])
    assert passes[0][0] != passes[0][1]
    assert passes[0] != passes[2]


def test_an_epoch_of_replay_is_the_one_that_its_clock_says(equal, stream):
    strategy, record = naive(FastLoadingPlugin(), ReplayPlugin(mem_size=12), Looking(), epochs=3)
    for experience in stream(2).train_stream:
        strategy.train(experience)
    loader = record.loaders[-1]
    assert type(loader) is ParallelLoader
    for epoch in (2, 1):
        loader.epoch = epoch
        start = len(record.train) - (3 - epoch) * len(loader)
        assert equal(list(loader), record.train[start : start + len(loader)])


def test_agem_gets_the_shares_that_its_own_loader_would_give(shapes, images, stream):
    benchmark, records = stream(3), []
    for plugins in ([FastLoadingPlugin()], []):
        agem, taken = AGEMPlugin(patterns_per_experience=6, sample_size=4), []
        sample = agem.sample_from_memory
        agem.sample_from_memory = lambda sample=sample, taken=taken: taken.append(sample()) or taken[-1]
        strategy, _ = naive(*plugins, agem)
        for experience in benchmark.train_stream:
            strategy.train(experience)
        records.append(taken)
        stored = [set(images([[[buffer[i][0] for i in range(6)]]])) for buffer in agem.buffers]
        both = taken[len(taken) // 2 :]  # in the last task, with two in memory
        assert set(images([[x[:2]] for x, _, _ in both])) == stored[0]
        assert set(images([[x[2:]] for x, _, _ in both])) == stored[1]
    assert shapes(records[0]) == shapes(records[1])


def test_transforms_keep_avalanches_loader(stream):
    benchmark = stream(transform_groups={"train": torch.neg, "eval": None})
    strategy, record = naive(FastLoadingPlugin())
    strategy.train(benchmark.train_stream[0])
    assert type(record.loaders[0]) is TaskBalancedDataLoader
    strategy.eval(benchmark.test_stream[0])
    assert type(record.loaders[-1]) is TensorLoader


def test_several_tasks_in_one_experience_stay_balanced(stream):
    strategy, record = naive(FastLoadingPlugin(), kind=JointTraining)
    strategy.train(stream(numbered=True).train_stream)
    assert type(record.loaders[0]) is ParallelLoader
    assert {tuple(t.tolist()) for _, _, t in record.train[:4]} == {(0, 0, 0, 1, 1)}
    strategy, record = naive(FastLoadingPlugin(), kind=JointTraining)
    strategy.train(stream().train_stream)
    assert type(record.loaders[0]) is TensorLoader
    assert len({tuple(x.flatten().tolist()) for b in record.train[:10] for x in b[0]}) == 46


def test_arguments_of_train_reach_the_loader(task, equal, stream):
    strategy, record = naive(FastLoadingPlugin(), epochs=1)
    strategy.train(stream(1).train_stream, shuffle=False, drop_last=True, num_workers=0)
    expected = [task(seed=0).batch(index) for index in torch.arange(20).split(5)]
    assert equal([batch[:2] for batch in record.train], expected)


def test_ewc_runs_with_it(stream):
    strategy, record = naive(FastLoadingPlugin(), kind=EWC, ewc_lambda=1.0)
    benchmark = stream()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert {type(loader) for loader in record.loaders} == {TensorLoader}


@pytest.mark.parametrize(("epochs", "loader"), [(1, TaskBalancedDataLoader), (2, TensorLoader)])
def test_fixed_transforms_are_computed_once_if_there_are_more_epochs(stream, epochs, loader):
    shift = Normalize((0.5,), (0.5,))
    benchmark = stream(transform_groups={"train": shift, "eval": shift})
    strategy, record = naive(FastLoadingPlugin(), epochs=epochs)
    strategy.train(benchmark.train_stream[0])
    assert {type(each) for each in record.loaders} == {loader}
    got = {tuple(x.flatten().tolist()) for batch in record.train for x in batch[0]}
    dataset = benchmark.train_stream[0].dataset
    assert got == {tuple(dataset[i][0].flatten().tolist()) for i in range(23)}


def test_no_task_keeps_its_permuted_images_after_training(stream):
    benchmark = stream(3)
    strategy, record = naive(FastLoadingPlugin())
    for experience in benchmark.train_stream:
        strategy.train(experience)
        data = record.loaders[-1].data.parts[0]
        record.loaders.clear()
        assert data._kept is not None
        assert data._kept() is None
