from types import SimpleNamespace

import pytest
from avalanche.benchmarks import classic

from clbinn import benchmarks
from clbinn.errors import DataError, RecipeError
from clbinn.schema import BenchmarkRecipe


@pytest.mark.mnist
def test_avalanches_own_benchmarks_by_name(mnist_root):
    tasks = {"kind": "avalanche", "benchmark": "SplitMNIST", "options": {"n_experiences": 5, "shuffle": False}}
    benchmark = benchmarks.load(
        BenchmarkRecipe.model_validate({"name": "made", "scenario": "class", "tasks": tasks}), mnist_root, seed=3
    )
    info = benchmark.info
    assert info.classes_per_task == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert (info.input_shape, info.num_classes, info.num_tasks) == ((1, 28, 28), 10, 5)
    assert len(benchmark.test_stream[4].dataset) == 1983


@pytest.mark.mnist
def test_avalanches_streams_have_a_seed_also_where_nobody_gives_one(mnist_root):
    tasks = {"kind": "avalanche", "benchmark": "SplitMNIST", "options": {"n_experiences": 5}}
    recipe = BenchmarkRecipe.model_validate({"name": "made", "scenario": "class", "tasks": tasks})
    orders = [benchmarks.load(recipe, mnist_root).info.classes_per_task for _ in range(2)]
    assert orders[0] == orders[1]


@pytest.mark.mnist
def test_avalanches_tasks_need_numbers_in_the_task_scenario(mnist_root):
    tasks = {"kind": "avalanche", "benchmark": "SplitMNIST", "options": {"n_experiences": 2}}
    recipe = {"name": "made", "scenario": "task", "tasks": tasks}
    with pytest.raises(RecipeError, match=r"SplitMNIST gives them \[0\]: set `options: {return_task_id: true}`"):
        benchmarks.load(BenchmarkRecipe.model_validate(recipe), mnist_root)
    tasks["options"]["return_task_id"] = True
    numbered = benchmarks.load(BenchmarkRecipe.model_validate(recipe), mnist_root)
    assert [experience.task_label for experience in numbered.train_stream] == [0, 1]


@pytest.mark.parametrize(
    ("benchmark", "options", "error", "message"),
    [
        ("PermutedMNST", {}, RecipeError, "did you mean 'PermutedMNIST'"),
        ("permutedmnist", {}, RecipeError, "did you mean 'PermutedMNIST'"),
        ("Nothing", {}, RecipeError, "expected '.*'SplitMNIST'"),
        (
            "SplitMNIST",
            {"n_experience": 5},
            RecipeError,
            "n_experience: SplitMNIST has no such option; did you mean 'n_experiences'",
        ),
        ("SplitMNIST", {"n_experiences": 5}, DataError, "mnist, which SplitMNIST needs, was not found"),
        ("SplitFMNIST", {"n_experiences": 5}, DataError, "fashion_mnist, which SplitFMNIST needs"),
        ("SplitCIFAR100", {"n_experiences": 5}, DataError, "cifar100, which SplitCIFAR100 needs"),
        ("SplitCIFAR110", {"n_experiences": 5}, DataError, "cifar10, which SplitCIFAR110 needs"),
        ("SplitOmniglot", {"n_experiences": 5}, DataError, "allow it"),
        ("SplitMNIST", {}, RecipeError, "needs 'n_experiences'"),
        ("SplitMNIST", {"n_experiences": 5, "shuffle": "off"}, RecipeError, "shuffle: .* true or false, not 'off'"),
        ("SplitMNIST", {"n_experiences": 5, "dataset_root": "/nowhere"}, DataError, r"Looked in: /nowhere/MNIST"),
    ],
)
def test_faults_in_the_name_of_a_benchmark_are_told(benchmark, options, error, message):
    tasks = {"kind": "avalanche", "benchmark": benchmark, "options": options}
    with pytest.raises(error, match=message):
        benchmarks.load(BenchmarkRecipe.model_validate({"name": "made", "tasks": tasks}))


def test_a_stream_without_a_test_for_each_task_is_refused(monkeypatch):
    def one_test(n_experiences=5):
        return SimpleNamespace(train_stream=[None] * n_experiences, test_stream=[None])

    monkeypatch.setattr(classic, "OneTest", one_test, raising=False)
    recipe = {"name": "made", "tasks": {"kind": "avalanche", "benchmark": "OneTest", "options": {}}}
    with pytest.raises(RecipeError, match="5 experiences to learn and 1 to test"):
        benchmarks.load(BenchmarkRecipe.model_validate(recipe))


@pytest.mark.mnist
def test_faults_in_the_arguments_of_a_benchmark_are_told(mnist_root):
    tasks = {"kind": "avalanche", "benchmark": "SplitMNIST", "options": {"n_experiences": 7}}
    with pytest.raises(DataError, match=r"Avalanche's SplitMNIST\(.*\) failed"):
        benchmarks.load(BenchmarkRecipe.model_validate({"name": "made", "tasks": tasks}), mnist_root)
