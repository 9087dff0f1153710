import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels
from avalanche.benchmarks.utils import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
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

from clbinn.benchmarks import FastLoadingPlugin, ResidentData, TensorLoader, TensorTask, resident
from clbinn.benchmarks.loading import MemoryLoader, ParallelLoader, _fast, epoch_order


def task(n=23, seed=0, permuted=True):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
    permutation = torch.randperm(16, generator=generator) if permuted else None
    return TensorTask(raw, torch.arange(n) % 3, permutation=permutation, mean=0.2, std=0.4)


def wrap(data, label=0, **options):
    attributes = [DataAttribute(data.targets.tolist(), "targets"), TaskLabels([label] * len(data))]
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=attributes, **options)


def stream(count=2, numbered=False, **options):
    data = [wrap(task(seed=i), i if numbered else 0, **options) for i in range(count)]
    return with_classes_timeline(with_task_labels(benchmark_from_datasets(train=data, test=data)))


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


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_an_epoch_holds_every_image_once_in_a_seeded_order():
    data = task()
    loader = TensorLoader(ResidentData((data,)), 5, True, 7)
    batches = list(loader)
    assert [len(x) for x, _ in batches] == [5, 5, 5, 5, 3]
    assert len(loader) == 5
    order = epoch_order(23, 7, 0)
    x, y = data.batch(order)
    assert sorted(order.tolist()) == list(range(23))
    assert torch.equal(torch.cat([b[0] for b in batches]), x)
    assert torch.equal(torch.cat([b[1] for b in batches]), y)


def test_orders_differ_between_epochs_seeds_and_experiences():
    orders = {tuple(epoch_order(50, *seeds).tolist()) for seeds in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}
    assert len(orders) == 4


def test_an_epoch_can_be_given_again_whatever_came_between():
    loader = TensorLoader(ResidentData((task(),)), 5, True, 1)
    epochs = [list(loader) for _ in range(3)]
    torch.manual_seed(5)
    torch.rand(100)
    loader.epoch = 1
    assert equal(list(loader), epochs[1])
    assert not equal(epochs[0], epochs[1])
    assert loader.epoch == 2


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(TensorLoader(ResidentData((task(),)), 5, True, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [10, 10, 3]), (True, [10, 10])])
def test_without_shuffling_images_come_in_order_with_their_task_label(drop_last, sizes):
    data = task()
    batches = list(TensorLoader(ResidentData((data,)), 10, False, task_label=3, drop_last=drop_last))
    assert [len(x) for x, _, _ in batches] == sizes
    assert torch.equal(torch.cat([x for x, _, _ in batches]), data.batch(torch.arange(sum(sizes)))[0])
    assert {int(t) for _, _, labels in batches for t in labels} == {3}


def test_batches_that_were_gathered_together_can_be_changed_in_place():
    (first, *_), (second, *_), *_ = TensorLoader(resident(task(n=20)), 4, shuffle=True)
    scale = torch.ones(1, requires_grad=True)
    loss = (first * scale).sum()
    second.mul_(scale)  # neither a view to autograd, nor a change of the first, which is in a graph
    (loss + second.sum()).backward()
    assert torch.allclose(scale.grad, first.sum() + second.sum())


def test_mixed_parts_keep_their_own_labels():
    parts = (task(seed=1), task(seed=2))
    labels = torch.tensor([0] * 23 + [1] * 23)
    x, y, t = map(torch.cat, zip(*TensorLoader(ResidentData(parts, None, labels), 8, True, 0), strict=True))
    order = epoch_order(46, 0, 0)
    whole = [torch.cat(both) for both in zip(*(p.batch(torch.arange(23)) for p in parts), strict=True)]
    assert torch.equal(x, whole[0][order])
    assert torch.equal(y, whole[1][order])
    assert torch.equal(t, labels[order])


def test_the_plugin_gives_a_strategy_the_images_that_avalanche_would_give():
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


def test_training_data_depend_on_seed_experience_and_epoch_alone():
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


def test_training_numbers_are_those_of_the_same_batches_in_a_bare_loop():
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


def shapes(batches):
    return [tuple(tuple(part.shape) for part in batch) for batch in batches]


def images(batches):
    return sorted(tuple(x.flatten().tolist()) for batch in batches for x in batch[0])


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("options", [{}, {"shuffle": True, "drop_last": True}])
def test_replay_gets_the_batches_that_its_own_loader_would_give(first, options):
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


def test_sets_side_by_side_are_avalanches_batches():
    sets = [task(n=23, seed=0), task(n=9, seed=1), task(n=4, seed=2)]
    for oversample in (True, False):
        theirs = list(GroupBalancedDataLoader([wrap(data) for data in sets], oversample, batch_size=12, shuffle=True))
        ours = ParallelLoader([resident(wrap(data)) for data in sets], [4, 4, 4], 0, oversample, (1,))
        got = list(ours)
        assert len(ours) == len(theirs) == 6
        assert shapes(got) == shapes(theirs)
        whole = images([data.batch(torch.arange(len(data))) for data in sets])
        assert (set(images(got)) == set(whole)) if oversample else (images(got) == whole)
        ours.epoch = 0
        assert equal(list(ours), got)
        assert not equal(list(ours), got)


def in_order(parts):
    return [tuple(image.flatten().tolist()) for part in parts for image in part]


def test_each_pass_over_a_small_set_has_an_order_of_its_own():
    sets = [resident(wrap(task(n=n, seed=i))) for i, n in enumerate((24, 8, 8))]
    loader = ParallelLoader(sets, [4, 4, 4], 0, True, (1,))
    orders = []
    for _ in range(2):
        epoch = [x for x, _, _ in loader]
        for k in (1, 2):  # three passes over each of the small sets
            of_set = in_order(x[4 * k : 4 * k + 4] for x in epoch)
            whole = sorted(of_set[:8])
            orders += [tuple(whole.index(image) for image in of_set[i : i + 8]) for i in (0, 8, 16)]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len(set(orders)) == 12


def test_replays_order_is_that_of_its_seed():
    epochs = []
    for seed in (0, 0, 1):
        strategy, record = naive(FastLoadingPlugin(seed), ReplayPlugin(mem_size=12))
        for experience in stream(2).train_stream:
            strategy.train(experience)
        epochs.append(in_order(x for x, _, _ in record.train))
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]


def test_agems_order_is_that_of_its_seed_and_experience():
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


class Looking(SupervisedPlugin):
    """Goes through the loader between the epochs."""

    def after_training_epoch(self, strategy, **kwargs):
        list(strategy.dataloader)


def test_an_epoch_of_replay_is_the_one_that_its_clock_says():
    strategy, record = naive(FastLoadingPlugin(), ReplayPlugin(mem_size=12), Looking(), epochs=3)
    for experience in stream(2).train_stream:
        strategy.train(experience)
    loader = record.loaders[-1]
    assert type(loader) is ParallelLoader
    for epoch in (2, 1):
        loader.epoch = epoch
        start = len(record.train) - (3 - epoch) * len(loader)
        assert equal(list(loader), record.train[start : start + len(loader)])


def test_images_of_different_shapes_and_endless_loaders_are_left_to_avalanche():
    small, large = task(n=8), TensorTask(torch.zeros(8, 1, 5, 5, dtype=torch.uint8), torch.arange(8) % 3)
    datasets = [wrap(small), wrap(large)]
    together = GroupBalancedDataLoader(datasets, True, batch_size=4, shuffle=True)
    assert _fast(together, torch.device("cpu"), (0,)) is together
    alike = [wrap(small), wrap(task(n=8, seed=1))]
    fits = GroupBalancedDataLoader(alike, True, batch_size=4, shuffle=True)
    assert type(_fast(fits, torch.device("cpu"), (0,))) is ParallelLoader
    fits.never_ending = True
    assert _fast(fits, torch.device("cpu"), (0,)) is fits


def test_a_set_too_small_for_a_whole_batch_is_left_out():
    sets = [resident(wrap(task(n=n))) for n in (23, 3)]
    assert [len(x) for x, _, _ in ParallelLoader(sets, [5, 5], 0, True, drop_last=True)] == [5] * 4


def test_a_memory_gives_each_set_its_share_without_end():
    sets = [task(n=9, seed=0), task(n=4, seed=1)]
    loader = MemoryLoader([resident(wrap(data)) for data in sets], 4, (1,))
    got = [loader.batch(n) for n in range(6)]
    assert [len(x) for x, _, _ in got] == [8, 8, 5] * 2  # 9 images in parts of 4, 4 and 1; 4 in parts of 4
    first, second = ([[x[:-4]] for x, _, _ in part] for part in (got[:3], got[3:]))
    assert images(first) == images(second) == images([sets[0].batch(torch.arange(9))])
    assert not equal(first, second)
    assert equal([loader.batch(n) for n in (4, 1)], [got[4], got[1]])


def test_agem_gets_the_shares_that_its_own_loader_would_give():
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


def test_transforms_keep_avalanches_loader():
    benchmark = stream(transform_groups={"train": torch.neg, "eval": None})
    strategy, record = naive(FastLoadingPlugin())
    strategy.train(benchmark.train_stream[0])
    assert type(record.loaders[0]) is TaskBalancedDataLoader
    strategy.eval(benchmark.test_stream[0])
    assert type(record.loaders[-1]) is TensorLoader


def test_several_tasks_in_one_experience_stay_balanced():
    strategy, record = naive(FastLoadingPlugin(), kind=JointTraining)
    strategy.train(stream(numbered=True).train_stream)
    assert type(record.loaders[0]) is ParallelLoader
    assert {tuple(t.tolist()) for _, _, t in record.train[:4]} == {(0, 0, 0, 1, 1)}
    strategy, record = naive(FastLoadingPlugin(), kind=JointTraining)
    strategy.train(stream().train_stream)
    assert type(record.loaders[0]) is TensorLoader
    assert len({tuple(x.flatten().tolist()) for b in record.train[:10] for x in b[0]}) == 46


def test_arguments_of_train_reach_the_loader():
    strategy, record = naive(FastLoadingPlugin(), epochs=1)
    strategy.train(stream(1).train_stream, shuffle=False, drop_last=True, num_workers=0)
    expected = [task(seed=0).batch(index) for index in torch.arange(20).split(5)]
    assert equal([batch[:2] for batch in record.train], expected)


def test_ewc_runs_with_it():
    strategy, record = naive(FastLoadingPlugin(), kind=EWC, ewc_lambda=1.0)
    benchmark = stream()
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert {type(loader) for loader in record.loaders} == {TensorLoader}


@pytest.mark.parametrize(("epochs", "loader"), [(1, TaskBalancedDataLoader), (2, TensorLoader)])
def test_fixed_transforms_are_computed_once_if_there_are_more_epochs(epochs, loader):
    shift = Normalize((0.5,), (0.5,))
    benchmark = stream(transform_groups={"train": shift, "eval": shift})
    strategy, record = naive(FastLoadingPlugin(), epochs=epochs)
    strategy.train(benchmark.train_stream[0])
    assert {type(each) for each in record.loaders} == {loader}
    got = {tuple(x.flatten().tolist()) for batch in record.train for x in batch[0]}
    dataset = benchmark.train_stream[0].dataset
    assert got == {tuple(dataset[i][0].flatten().tolist()) for i in range(23)}


def test_no_task_keeps_its_permuted_images_after_training():
    benchmark = stream(3)
    strategy, record = naive(FastLoadingPlugin())
    for experience in benchmark.train_stream:
        strategy.train(experience)
        data = record.loaders[-1].data.parts[0]
        record.loaders.clear()
        assert data._kept is not None
        assert data._kept() is None


@pytest.mark.parametrize(("images", "sizes"), [(21, [10, 11]), (22, [10, 10, 2]), (1, [1]), (20, [10, 10])])
def test_a_last_batch_of_one_joins_the_one_before(images, sizes):
    data = ResidentData([task(n=images)], None, None)
    for shuffle in (True, False):
        loader = TensorLoader(data, 10, shuffle)
        assert [len(y) for _, y, *_ in loader] == sizes
        assert len(loader) == len(sizes)
