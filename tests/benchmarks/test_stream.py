import numpy as np
import pytest
import torch
from avalanche.benchmarks import classic
from avalanche.models import MTSimpleMLP
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from clbinn import benchmarks
from clbinn.benchmarks import FastLoadingPlugin, resident
from clbinn.errors import DataError, RecipeError
from clbinn.schema import BenchmarkRecipe


def recipe(tasks, scenario="domain", **source):
    words = {"name": "made", "title": "A stream", "scenario": scenario, "tasks": tasks}
    if not isinstance(tasks, list):
        words["source"] = {"dataset": "digits"} | source
    return BenchmarkRecipe.model_validate(words)


def load(tasks, scenario="domain", seed=None, data_root=None, **source):
    return benchmarks.load(recipe(tasks, scenario, **source), data_root, seed)


def permuted(count=3, **options):
    return {"kind": "permute_pixels", "count": count} | options


def split(per_task=2, **options):
    return {"kind": "split_classes", "per_task": per_task} | options


def images(benchmark, i, stream="train"):
    found = resident(getattr(benchmark, f"{stream}_stream")[i].dataset)
    return found.batch(torch.arange(len(found)))


def upright(stream="train"):
    x, y, _ = images(load(permuted(1, first="identity")), 0, stream)
    return x, y


def test_upright_digits_come_out_as_scikit_learn_has_them():
    x, y = upright("test")
    known = {tuple((row / 16).tolist()): label for row, label in zip(*load_digits(return_X_y=True), strict=True)}
    assert [known[tuple(image.flatten().tolist())] for image in x] == y.tolist()


def test_each_task_permutes_training_and_test_images_alike():
    benchmark = load(permuted(3, seed=4))
    random = np.random.RandomState(4)
    for i in range(3):
        order = random.permutation(64)
        for stream in ("train", "test"):
            x, y = upright(stream)
            got = images(benchmark, i, stream)
            assert torch.equal(got[0].flatten(1), x.flatten(1)[:, order])
            assert torch.equal(got[1], y)


def test_the_first_task_may_stay_as_it_is():
    identity, all_permuted = load(permuted(3, first="identity", seed=4)), load(permuted(3, seed=4))
    assert torch.equal(images(identity, 0)[0], upright()[0])
    assert torch.equal(images(identity, 1)[0], images(all_permuted, 1)[0])
    assert identity.info.task_names == ["not permuted", "permutation 2", "permutation 3"]


def test_a_seed_replaces_the_recipes():
    first, second, other = load(permuted(seed=4)), load(permuted(), seed=4), load(permuted())
    assert first.info.hashes == second.info.hashes
    assert first.info.hashes["permutations"] != other.info.hashes["permutations"]
    assert first.info.hashes["data:digits"] == other.info.hashes["data:digits"]
    assert torch.equal(images(first, 2)[0], images(second, 2)[0])
    assert not torch.equal(images(first, 2)[0], images(other, 2)[0])


def test_hashes_are_those_of_earlier_versions():
    hashes = load(permuted(5)).info.hashes
    assert hashes == {"data:digits": "965ceff405ba7e7b", "permutations": "a350f2e2d1d2eb1d"}


def test_what_a_stream_says_of_itself():
    info = load(permuted(3)).info
    assert (info.name, info.title, info.scenario) == ("made", "A stream", "domain")
    assert (info.input_shape, info.num_classes, info.num_tasks) == ((1, 8, 8), 10, 3)
    assert info.classes_per_task == [list(range(10))] * 3
    with pytest.raises(AttributeError):
        info.name = "other"


@pytest.mark.parametrize(
    ("scenario", "labels", "task_labels", "outputs"),
    [
        ("task", [[0, 1]] * 5, [0, 1, 2, 3, 4], 2),
        ("domain", [[0, 1]] * 5, [0] * 5, 2),
        ("class", [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], [0] * 5, 10),
    ],
)
def test_split_classes_in_each_scenario(scenario, labels, task_labels, outputs):
    benchmark = load(split(), scenario)
    assert benchmark.info.classes_per_task == labels
    assert benchmark.info.num_classes == outputs
    x, y = upright()
    for i, experience in enumerate(benchmark.train_stream):
        assert experience.current_experience == i
        assert experience.task_label == task_labels[i]
        assert sorted(experience.classes_in_this_experience) == labels[i]
        got = images(benchmark, i)
        here = (y // 2) == i
        assert torch.equal(got[0], x[here])
        assert torch.equal(got[1], y[here] if scenario == "class" else y[here] % 2)
        assert set(got[2].tolist()) == {task_labels[i]}
        assert torch.tensor(list(experience.dataset.targets)).equal(got[1])


@pytest.mark.parametrize("tasks", [permuted(2, first="identity"), {"kind": "rotate", "degrees": [0, 90]}])
def test_labels_of_a_source_that_are_not_counted_from_0_become_so(tmp_path, tasks):
    x, y = np.random.RandomState(0).rand(12, 4, 4), np.array([7, 3, 11] * 4)
    np.savez(tmp_path / "d.npz", train_images=x, train_labels=y, test_images=x, test_labels=y)
    npz = {"dataset": "npz", "path": str(tmp_path / "d.npz")}
    for scenario, first in (("domain", 0), ("task", 0), ("class", 3)):
        benchmark = load(tasks, scenario, **npz)
        assert benchmark.info.classes_per_task == [[0, 1, 2], [first, first + 1, first + 2]]
        for stream in ("train", "test"):
            assert images(benchmark, 0, stream)[1].tolist() == [1, 0, 2] * 4
            assert images(benchmark, 1, stream)[1].tolist() == [first + 1, first, first + 2] * 4


def test_classes_are_dealt_out_in_the_order_given_or_drawn():
    given = load(split(5, order=[9, 1, 3, 0, 8, 2, 4, 5, 6, 7]), "class")
    assert given.info.classes_per_task == [[0, 1, 3, 8, 9], [2, 4, 5, 6, 7]]
    named = load(split(3, order=[7, 2, 5]), "domain")
    x, y = upright()
    here = torch.isin(y, torch.tensor([7, 2, 5]))
    assert torch.equal(images(named, 0)[0], x[here])
    assert images(named, 0)[1].tolist() == [[7, 2, 5].index(label) for label in y[here].tolist()]
    drawn = np.random.RandomState(3).permutation(10).tolist()
    for benchmark in (load(split(5, seed=3), "class"), load(split(5), "class", seed=3)):
        assert benchmark.info.classes_per_task == [sorted(drawn[:5]), sorted(drawn[5:])]
    assert load(split(2, count=3), "class").info.num_classes == 6


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (split(2, order=[0, 10]), r"tasks.order names \[10\], but the classes of digits are"),
        (split(3), "without a rest: set tasks.count"),
        (split(3, count=4), r"4 task\(s\) of 3 classes need 12; there are 10"),
        (split(11), r"1 task\(s\) of 11 classes need 11; there are 10"),
    ],
)
def test_splits_that_do_not_work_out_are_refused(tasks, message):
    with pytest.raises(RecipeError, match=message):
        load(tasks)


def test_images_are_turned_by_the_angle_of_their_task():
    benchmark = load({"kind": "rotate", "degrees": [0, 90, 33.5]})
    x, _ = upright()
    assert torch.equal(images(benchmark, 0)[0], x)
    torch.testing.assert_close(images(benchmark, 1)[0], x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    turned = tv.rotate(x[:50], 33.5, interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(images(benchmark, 2)[0][:50], turned)
    assert benchmark.info.task_names == ["0°", "90°", "33.5°"]


def test_only_images_can_be_turned():
    with pytest.raises(RecipeError, match=r"synthetic can't be rotated: its inputs have shape \(16,\)"):
        load({"kind": "rotate", "degrees": [5]}, dataset="synthetic")


def test_tasks_that_keep_all_classes_bring_new_ones_in_the_class_scenario():
    info = load(permuted(2), "class").info
    assert info.classes_per_task == [list(range(10)), list(range(10, 20))]
    assert info.num_classes == 20
    assert load(permuted(2), "task").train_stream[1].task_label == 1


def stripes(noise=0.1):
    x = torch.full((12, 1, 8, 8), noise)
    y = torch.arange(12) % 2 * 5
    return (x, y), (x, y)


UNLIKE = [
    {"dataset": "digits"},
    {"dataset": "digits", "permute_pixels": {"seed": 7}},
    {"dataset": "digits", "rotate": {"degrees": 90}, "name": "lying"},
    {"dataset": "digits", "classes": [8, 3], "train_size": 700},
    {"dataset": "stripes_module:stripes", "options": {"noise": 0.25}, "normalise": {"mean": 0.5, "std": 0.5}},
]


@pytest.fixture
def stripes_module(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stripes_module", __import__("sys").modules[__name__])


def test_a_list_of_unlike_tasks(stripes_module):
    benchmark = load(UNLIKE)
    x, y = upright()
    order = np.random.RandomState(7).permutation(64)
    assert torch.equal(images(benchmark, 0)[0], x)
    assert torch.equal(images(benchmark, 1)[0].flatten(1), x.flatten(1)[:, order])
    torch.testing.assert_close(images(benchmark, 2)[0], x.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    assert set(images(benchmark, 3)[1].tolist()) == {0, 1}
    known = {tuple(image.flatten().tolist()): label for image, label in zip(x, y.tolist(), strict=True)}
    for image, label in zip(*images(benchmark, 3)[:2], strict=True):
        assert known[tuple(image.flatten().tolist())] == [8, 3][label]
    assert images(benchmark, 4)[0].unique().tolist() == [-0.5]
    assert images(benchmark, 4)[1].unique().tolist() == [0, 1]
    info = benchmark.info
    assert info.classes_per_task == [list(range(10))] * 3 + [[0, 1]] * 2
    assert info.num_classes == 10
    assert info.task_names == [
        "digits",
        "digits, permutation of seed 7",
        "lying",
        "digits, classes 8, 3",
        "stripes_module:stripes",
    ]
    assert len(info.hashes) == 6


def test_a_list_in_the_other_scenarios(stripes_module):
    counted = load(UNLIKE, "class").info
    assert counted.classes_per_task[2:] == [list(range(20, 30)), [30, 31], [32, 33]]
    assert counted.num_classes == 34
    assert [experience.task_label for experience in load(UNLIKE, "task").test_stream] == [0, 1, 2, 3, 4]


def test_a_seed_is_added_to_those_in_a_list():
    first, second = (
        load([{"dataset": "digits", "permute_pixels": {"seed": 7}}]),
        load([{"dataset": "digits", "permute_pixels": {"seed": 2}}], seed=5),
    )
    assert torch.equal(images(first, 0)[0], images(second, 0)[0])


@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([{"dataset": "digits"}, {"dataset": "synthetic"}], DataError, r"one shape: digits has \(1, 8, 8\), synthetic"),
        ([{"dataset": "digits", "classes": [1, 11]}], RecipeError, "classes must name classes of digits once each"),
        ([{"dataset": "digits", "classes": [1, 1]}], RecipeError, "once each"),
    ],
)
def test_lists_that_do_not_work_out_are_refused(tasks, error, message):
    with pytest.raises(error, match=message):
        load(tasks)


def test_normalisation_needs_a_number_per_channel():
    with pytest.raises(RecipeError, match=r"normalise.mean has 3 numbers, but digits has 1 channel"):
        load(permuted(), normalise={"mean": [0.1, 0.2, 0.3], "std": 1.0})


def test_a_thousand_tasks_share_their_images_and_labels():
    benchmark = load(permuted(1000))
    tasks = [resident(experience.dataset).parts[0] for experience in benchmark.train_stream]
    assert len({id(task._images) for task in tasks}) == 1
    assert len({id(task.targets) for task in tasks}) == 1
    assert len({id(experience.dataset.targets) for experience in benchmark.train_stream}) == 1
    assert len({tuple(task.permutation.tolist()) for task in tasks}) == 1000


@pytest.mark.parametrize("numbered", [False, True])
def test_avalanches_strategies_run_on_a_stream(numbered):
    benchmark = load(split(5), "task" if numbered else "class")
    torch.manual_seed(0)
    model = (
        MTSimpleMLP(input_size=64, hidden_size=8)
        if numbered
        else torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    )
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        train_mb_size=50,
        train_epochs=20,
        eval_mb_size=100,
        plugins=[FastLoadingPlugin(), ReplayPlugin(mem_size=50)],
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    metrics = strategy.eval(benchmark.test_stream)
    accuracies = [value for name, value in metrics.items() if name.startswith("Top1_Acc_Exp")]
    assert len(accuracies) == 2
    assert accuracies[-1] > 0.8


@pytest.mark.mnist
@pytest.mark.parametrize("stream", ["train", "test"])
def test_permuted_mnist_equals_avalanches_for_the_same_seed(mnist_root, stream):
    words = {"dataset": "mnist", "normalise": {"mean": 0.1307, "std": 0.3081}}
    ours = load(permuted(2, seed=11), data_root=mnist_root, **words)
    theirs = classic.PermutedMNIST(2, seed=11, dataset_root=mnist_root)
    for i in range(2):
        dataset = getattr(theirs, f"{stream}_stream")[i].dataset
        got = images(ours, i, stream)
        assert len(got[0]) == len(dataset)
        by_class = got[1].argsort(stable=True)  # Avalanche puts the images of a class one after the other
        for k in range(0, len(dataset), 997):
            x, y, _ = dataset[k]
            torch.testing.assert_close(got[0][by_class[k]], x, rtol=0, atol=1e-6)
            assert int(got[1][by_class[k]]) == y


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_told(seed):
    with pytest.raises(RecipeError, match="seed must be from 0"):
        benchmarks.load("permuted_digits", seed=seed)


@pytest.mark.parametrize("kind", [{"kind": "permute_pixels", "count": 2}, {"kind": "split_classes", "per_task": 5}])
def test_a_seed_of_the_run_has_to_be_given(kind):
    recipe = {"name": "tiny", "source": {"dataset": "digits"}, "scenario": "domain", "tasks": {**kind, "seed": "run"}}
    recipe = BenchmarkRecipe.model_validate(recipe)
    with pytest.raises(RecipeError, match=r"tasks.seed is 'run'.*give"):
        benchmarks.load(recipe)
    first, again, other = (benchmarks.load(recipe, seed=seed).info.hashes for seed in (3, 3, 4))
    assert first == again != other
