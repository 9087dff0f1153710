import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import DataAttribute, TaskLabels, make_avalanche_dataset
from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torchvision.transforms import functional as tv

from clbinn.benchmarks.dataset import DeviceCopies, TensorTask, resident


def images(n=20, shape=(1, 6, 6), dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(0, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return raw if dtype == torch.uint8 else raw.float() / 100


def task(n=20, shape=(1, 6, 6), seed=0, **options):
    return TensorTask(images(n, shape, seed=seed), torch.arange(n) % 3, **options)


def order(pixels, seed=1):
    return torch.from_numpy(np.random.RandomState(seed).permutation(pixels))


CASES = {
    "plain": {},
    "normalised": {"mean": 0.1307, "std": 0.3081},
    "per channel": {"shape": (3, 4, 4), "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]},
    "permuted": {"permutation": order(36), "mean": 0.1307, "std": 0.3081},
    "permuted channels": {
        "shape": (3, 4, 4),
        "permutation": order(48),
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
    },
    "rotated": {"degrees": 30.0, "mean": 0.5, "std": 0.25},
    "rotated and permuted": {"degrees": -75.0, "permutation": order(36)},
    "features": {"shape": (5,), "permutation": order(5)},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    return request.param


def by_hand(raw, degrees=0.0, permutation=None, mean=0.0, std=1.0, shape=None):
    """One image the way torchvision's transforms treat it, one after the other."""
    if degrees:
        raw = tv.rotate(raw, degrees, interpolation=tv.InterpolationMode.BILINEAR)
    x = raw.double() / 255
    channels = (-1,) + (1,) * (x.ndim - 1)
    x = (x - torch.tensor(mean, dtype=x.dtype).view(channels)) / torch.tensor(std, dtype=x.dtype).view(channels)
    return x if permutation is None else x.view(-1)[permutation].view(x.shape)


def test_images_are_what_transforms_one_by_one_would_give(case):
    data = task(**case)
    raw = images(20, case.get("shape", (1, 6, 6)))
    for i in range(len(data)):
        x, y = data[i]
        assert x.dtype == torch.float32
        assert (type(y), y) == (int, i % 3)
        torch.testing.assert_close(x.double(), by_hand(raw[i], **case), rtol=0, atol=1e-6)


def test_a_batch_is_its_images_stacked_bit_for_bit(case):
    data = task(**case)
    index = torch.tensor([3, 0, 19, 3])
    expected = torch.stack([data[int(i)][0] for i in index])
    before = data.batch(index)
    kept = data.materialise()
    during = data.batch(index)
    assert torch.equal(data.normalise(kept)[index], expected)
    for x, y in (before, during):
        assert torch.equal(x, expected)
        assert y.tolist() == [0, 0, 1, 0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_workers_give_the_same_bits_as_the_main_process(case):
    data = task(**case)
    loader = DataLoader(data, batch_size=7, num_workers=2)
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    expected = data.batch(torch.arange(20))
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_come_out_on_the_device_of_their_index(case):
    data = task(**case)
    index = torch.arange(20)
    for kept in (None, data.materialise("cuda")):
        x, y = data.batch(index.cuda())
        assert (x.device.type, y.device.type) == ("cuda", "cuda")
        torch.testing.assert_close(x.cpu(), data.batch(index)[0], rtol=0, atol=1e-5)
        del kept


def test_a_materialised_task_is_used_while_held_and_then_freed():
    data = task(permutation=order(36))
    kept = data.materialise()
    assert data.materialise() is kept
    kept.zero_()
    assert not data.batch(torch.arange(3))[0].any()
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None
    assert data.batch(torch.arange(3))[0].any()


def test_tasks_share_the_images_of_a_stream():
    shared = DeviceCopies(images())
    first, second = (TensorTask(shared, torch.arange(20), permutation=order(36, s)) for s in (1, 2))
    shared.tensor.fill_(255)
    assert first[0][0].eq(1).all()
    assert second[0][0].eq(1).all()


def test_rows_choose_the_images():
    raw = images()
    data = TensorTask(raw, torch.tensor([1, 0]), rows=torch.tensor([7, 4]))
    torch.testing.assert_close(data[0][0], raw[7] / 255)
    torch.testing.assert_close(data[-1][0], raw[4] / 255)
    assert [y for _, y in (data[i] for i in range(2))] == [1, 0]
    with pytest.raises(IndexError, match="image 2 of a task of 2"):
        data[2]


def test_real_inputs_are_not_scaled_and_stay_untouched():
    raw = images(dtype=torch.float32)
    data = TensorTask(raw, torch.arange(20), mean=1.0, std=2.0)
    before = raw.clone()
    torch.testing.assert_close(data.batch(torch.arange(20))[0], (before - 1) / 2)
    assert torch.equal(raw, before)


def test_a_task_survives_pickling_while_materialised():
    data = task(permutation=order(36))
    kept = data.materialise()
    again = pickle.loads(pickle.dumps(data))
    assert len(kept)
    assert torch.equal(again.batch(torch.arange(20))[0], data.batch(torch.arange(20))[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.zeros(3, 2, dtype=torch.int64)}, "uint8 or float32"),
        ({"targets": torch.zeros(3)}, "int64"),
        ({"targets": torch.arange(2)}, "3 images but 2 targets"),
        ({"rows": torch.tensor([0])}, "1 images but 3 targets"),
        ({"permutation": torch.tensor([0, 0])}, r"each of 0..1 once"),
        ({"permutation": torch.tensor([0])}, r"each of 0..1 once"),
        ({"degrees": 5.0}, "can be turned"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    good = {"images": torch.zeros(3, 2, dtype=torch.uint8), "targets": torch.arange(3)}
    with pytest.raises(ValueError, match=message):
        TensorTask(**(good | arguments))


def wrap(data, label=0):
    attributes = [DataAttribute(data.targets.tolist(), "targets"), TaskLabels([label] * len(data))]
    return TaskAwareSupervisedClassificationDataset([data], data_attributes=attributes)


def same_batches(found, dataset):
    """Whether the resident data equal the dataset item by item, task labels included."""
    got = found.to("cpu").batch(torch.arange(len(dataset)))
    items = [dataset[i] for i in range(len(dataset))]
    assert len(found) == len(items)
    assert len(got) == len(items[0])
    assert torch.equal(got[0], torch.stack([item[0] for item in items]))
    for column in range(1, len(got)):
        assert got[column].tolist() == [int(item[column]) for item in items]


@given(st.lists(st.tuples(st.sampled_from(["subset", "concat", "train", "eval"]), st.randoms()), max_size=5))
def test_resident_data_equal_any_tree_of_subsets_and_concatenations(steps):
    leaves = [wrap(task(8, seed=s, permutation=order(36, s)), label=s % 2) for s in range(3)]
    dataset = leaves[0]
    for kind, random in steps:
        if kind == "subset":
            dataset = dataset.subset([random.randrange(len(dataset)) for _ in range(random.randrange(1, 9))])
        elif kind == "concat":
            dataset = dataset.concat(random.choice(leaves))
        else:
            dataset = getattr(dataset, kind)()
    found = resident(dataset)
    assert found is not None
    same_batches(found, dataset)
    assert found.targets.tolist() == [item[1] for item in (dataset[i] for i in range(len(dataset)))]


def test_a_whole_task_needs_no_index_and_one_label():
    found = resident(wrap(task(), label=4).train())
    assert (len(found.parts), found.index, found.task_labels) == (1, None, 4)
    assert resident(wrap(task()).subset(list(range(20)))).index is None


def test_torch_subsets_and_concatenations_are_resident_without_task_labels():
    dataset = ConcatDataset([task(8, seed=1), Subset(task(8, seed=2), [5, 1])])
    found = resident(dataset)
    same_batches(found, dataset)
    assert found.task_labels is None


def halve(x):
    return x / 2


@pytest.mark.parametrize("group", ["train", "eval"])
def test_a_transform_is_noticed_in_the_group_where_it_works(group):
    dataset = wrap(task())
    changed = TaskAwareSupervisedClassificationDataset([dataset], transform_groups={group: halve, "other": None})
    for current in ("train", "eval"):
        found = resident(changed.with_transforms(current))
        affected = current == group or group == "train"  # a train transform serves for eval, if that has none
        assert (found is None) == affected


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.zeros(3, 2), torch.zeros(3)),
        make_avalanche_dataset(TensorDataset(torch.zeros(3, 2), torch.zeros(3))),
        make_avalanche_dataset(task(), frozen_transform_groups={"train": halve, "eval": halve}),
        make_avalanche_dataset(task(), collate_fn=list),
        make_avalanche_dataset(task(), data_attributes=[DataAttribute([0] * 20, "logits", use_in_getitem=True)]),
        Subset(make_avalanche_dataset(task()), [0, 1]),  # its own transforms and task labels are below the top
        ConcatDataset([task(), task(shape=(1, 5, 5))]),
        ConcatDataset([task(), TensorDataset(torch.zeros(3, 1, 6, 6), torch.zeros(3))]),
        [1, 2, 3],
    ],
    ids=[
        "tensors",
        "other data",
        "frozen transform",
        "collate",
        "extra value",
        "below",
        "two shapes",
        "partly other",
        "list",
    ],
)
def test_other_data_are_not_resident(dataset):
    assert resident(dataset) is None
