"""Mini-batches from resident data: of one set, of several side by side, of a memory."""

import pytest
import torch
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
)

from clbinn.benchmarks import ResidentData, TensorLoader, TensorTask, resident
from clbinn.benchmarks.loading import MemoryLoader, ParallelLoader, _fast, epoch_order


def test_an_epoch_holds_every_image_once_in_a_seeded_order(task):
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


def test_an_epoch_can_be_given_again_whatever_came_between(task, equal):
    loader = TensorLoader(ResidentData((task(),)), 5, True, 1)
    epochs = [list(loader) for _ in range(3)]
    torch.manual_seed(5)
    torch.rand(100)
    loader.epoch = 1
    assert equal(list(loader), epochs[1])
    assert not equal(epochs[0], epochs[1])
    assert loader.epoch == 2


def test_the_global_random_state_is_left_alone(task):
    before = torch.get_rng_state()
    list(TensorLoader(ResidentData((task(),)), 5, True, 1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [10, 10, 3]), (True, [10, 10])])
def test_without_shuffling_images_come_in_order_with_their_task_label(task, drop_last, sizes):
    data = task()
    batches = list(TensorLoader(ResidentData((data,)), 10, False, task_label=3, drop_last=drop_last))
    assert [len(x) for x, _, _ in batches] == sizes
    assert torch.equal(torch.cat([x for x, _, _ in batches]), data.batch(torch.arange(sum(sizes)))[0])
    assert {int(t) for _, _, labels in batches for t in labels} == {3}


def test_batches_that_were_gathered_together_can_be_changed_in_place(task):
    (first, *_), (second, *_), *_ = TensorLoader(resident(task(n=20)), 4, shuffle=True)
    scale = torch.ones(1, requires_grad=True)
    loss = (first * scale).sum()
    second.mul_(scale)  # neither a view to autograd, nor a change of the first, which is in a graph
    (loss + second.sum()).backward()
    assert torch.allclose(scale.grad, first.sum() + second.sum())


def test_mixed_parts_keep_their_own_labels(task):
    parts = (task(seed=1), task(seed=2))
    labels = torch.tensor([0] * 23 + [1] * 23)
    x, y, t = map(torch.cat, zip(*TensorLoader(ResidentData(parts, None, labels), 8, True, 0), strict=True))
    order = epoch_order(46, 0, 0)
    whole = [torch.cat(both) for both in zip(*(p.batch(torch.arange(23)) for p in parts), strict=True)]
    assert torch.equal(x, whole[0][order])
    assert torch.equal(y, whole[1][order])
    assert torch.equal(t, labels[order])


def test_sets_side_by_side_are_avalanches_batches(task, wrap, equal, shapes, images):
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


def test_each_pass_over_a_small_set_has_an_order_of_its_own(task, wrap, in_order):
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


def test_images_of_different_shapes_and_endless_loaders_are_left_to_avalanche(task, wrap):
    small, large = task(n=8), TensorTask(torch.zeros(8, 1, 5, 5, dtype=torch.uint8), torch.arange(8) % 3)
    datasets = [wrap(small), wrap(large)]
    together = GroupBalancedDataLoader(datasets, True, batch_size=4, shuffle=True)
    assert _fast(together, torch.device("cpu"), (0,)) is together
    alike = [wrap(small), wrap(task(n=8, seed=1))]
    fits = GroupBalancedDataLoader(alike, True, batch_size=4, shuffle=True)
    assert type(_fast(fits, torch.device("cpu"), (0,))) is ParallelLoader
    fits.never_ending = True
    assert _fast(fits, torch.device("cpu"), (0,)) is fits


def test_a_set_too_small_for_a_whole_batch_is_left_out(task, wrap):
    sets = [resident(wrap(task(n=n))) for n in (23, 3)]
    assert [len(x) for x, _, _ in ParallelLoader(sets, [5, 5], 0, True, drop_last=True)] == [5] * 4


def test_a_memory_gives_each_set_its_share_without_end(task, wrap, equal, images):
    sets = [task(n=9, seed=0), task(n=4, seed=1)]
    loader = MemoryLoader([resident(wrap(data)) for data in sets], 4, (1,))
    got = [loader.batch(n) for n in range(6)]
    assert [len(x) for x, _, _ in got] == [8, 8, 5] * 2  # 9 images in parts of 4, 4 and 1; 4 in parts of 4
    first, second = ([[x[:-4]] for x, _, _ in part] for part in (got[:3], got[3:]))
    assert images(first) == images(second) == images([sets[0].batch(torch.arange(9))])
    assert not equal(first, second)
    assert equal([loader.batch(n) for n in (4, 1)], [got[4], got[1]])


@pytest.mark.parametrize(("images", "sizes"), [(21, [10, 11]), (22, [10, 10, 2]), (1, [1]), (20, [10, 10])])
def test_a_last_batch_of_one_joins_the_one_before(task, images, sizes):
    data = ResidentData([task(n=images)], None, None)
    for shuffle in (True, False):
        loader = TensorLoader(data, 10, shuffle)
        assert [len(y) for _, y, *_ in loader] == sizes
        assert len(loader) == len(sizes)
