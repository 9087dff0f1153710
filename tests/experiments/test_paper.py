import pytest

from clbinn.errors import RecipeError
from clbinn.experiments.paper import load_paper, papers


@pytest.mark.parametrize("name", papers())
def test_every_shipped_table_loads_and_names_its_source(name):
    paper = load_paper(papers()[name])
    assert paper.name == name
    assert all(method.provenance for method in paper.methods)


def settings(paper, method):
    found = next(m for m in load_paper(papers()[paper]).methods if m.name == method)
    schedule = found.schedules[0] if found.schedules else None
    return found, found.options, schedule


# Table 9, as printed
TABLE_9 = {
    ("mnist", "bayesbinn"): {"lr": 1e-4, "temperature": 1e-10, "num_samples": 1, "init_natural": 10.0},
    ("cifar10", "bayesbinn"): {"lr": 3e-4, "temperature": 1e-10, "num_samples": 1, "init_natural": 10.0},
    ("cifar100", "bayesbinn"): {"lr": 3e-4, "temperature": 1e-8, "num_samples": 1, "init_natural": 10.0},
    ("mnist", "ste"): {"lr": 1e-2},
    ("cifar10", "ste"): {"lr": 1e-2},
    ("cifar100", "ste"): {"lr": 1e-2},
    ("mnist", "bop"): {"threshold": 1e-8, "adaptivity": 1e-5},
    ("cifar10", "bop"): {"threshold": 1e-8, "adaptivity": 1e-4},
    ("cifar100", "bop"): {"threshold": 1e-9, "adaptivity": 1e-4},
    ("mnist", "pmf"): {"lr": 1e-3, "rho": 1.2},
    ("cifar10", "pmf"): {"lr": 1e-2, "rho": 1.05, "weight_decay": 1e-4},
    ("cifar100", "pmf"): {"lr": 1e-2, "rho": 1.05, "weight_decay": 1e-4},
    ("mnist", "adam"): {"lr": 3e-4},
    ("cifar10", "adam"): {"lr": 1e-2},
    ("cifar100", "adam"): {"lr": 3e-3},
}


@pytest.mark.parametrize("place", TABLE_9)
def test_settings_are_those_of_table_9(place):
    method, options, schedule = settings(*place)
    assert TABLE_9[place].items() <= options.items()
    assert method.train.epochs == 500
    assert method.train.batch_size == (100 if place[0] == "mnist" else 50)
    assert method.validation == 0.1
    assert (method.augment, method.data_factor) == ((False, 1.0) if place[0] == "mnist" else (True, 10.0))
    if place[1] == "bop":
        factor, every = (10 ** (-3 / 500), 1) if place[0] == "mnist" else (0.1, 100)
        assert schedule.options["factor"] == pytest.approx(factor)
        assert schedule.options["every"] == every
    elif place[1] == "pmf":
        assert (schedule.options, schedule.unit) == (
            {"factor": 0.2, "every": 7000 if place[0] == "mnist" else 30000},
            "iteration",
        )
    else:
        assert schedule.options == {"end": 1e-16}


def test_sweeps_are_those_of_tables_6_and_7():
    rates = [m.options["lr"] for m in load_paper(papers()["mnist_learning_rates"]).methods]
    assert rates == [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6]
    temperatures = [m.options["temperature"] for m in load_paper(papers()["mnist_temperatures"]).methods]
    assert temperatures == pytest.approx([10.0**-k for k in range(3, 13)])


def test_overrides_reach_every_method_and_the_data():
    paper = load_paper(papers()["mnist"], ["train.epochs=3", "benchmark.source.train_size=500"])
    assert {m.train.epochs for m in paper.methods} == {3}
    assert paper.benchmark.source.train_size == 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train.epochs=0", "must be at least 1"),
        ("validation=1.5", "must be below 1"),
        ("benchmark.scenario=x", "benchmark.scenario"),
        ("x", "write KEY=VALUE"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(RecipeError, match=rf"^--set {override}: .*{message}"):
        load_paper(papers()["mnist"], [override])


def test_all_wrong_overrides_come_together():
    with pytest.raises(RecipeError, match=r"--set x: .*\n--set y: "):
        load_paper(papers()["mnist"], ["x", "y"])


def test_faults_have_the_position_in_the_file(tmp_path):
    text = papers()["mnist_temperatures"].read_text().replace("batch_size: 100", "batch_size: ten")
    text = text.replace("    options:", "    oddity: 1\n    options:")
    file = tmp_path / "other.yaml"
    file.write_text(text)
    lines = text.splitlines()
    places = {
        word: next((i, row.index(word)) for i, row in enumerate(lines, 1) if word in row) for word in ("ten", "oddity")
    }
    with pytest.raises(RecipeError) as error:
        load_paper(file)
    for line, column in places.values():
        assert f"{file}:{line}:{column + 1}: methods.0." in str(error.value)


def test_a_file_that_is_no_paper_recipe_is_refused(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("name: other\n")
    with pytest.raises(RecipeError, match="list of `methods`"):
        load_paper(file)
