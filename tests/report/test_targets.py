import shutil
from pathlib import Path

import pytest
import yaml

from clbinn import recipes
from clbinn.errors import UserError
from clbinn.report.groups import streams
from clbinn.report.runs import find_runs
from clbinn.report.targets import COLUMNS, compare, load_targets

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "targets.csv"
HEAD = ",".join(COLUMNS)
ROW = "a/b,permuted_mnist,bayesbinn,{where},{metric},{value},,0.01,{epochs},printed,a paper"


def write(folder, *rows):
    path = folder / "targets.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


def row(where="", metric="average_accuracy", value=0.9, epochs=""):
    return ROW.format(where=where, metric=metric, value=value, epochs=epochs)


def judge(tmp_path, **fields):
    (verdict,) = compare(load_targets(write(tmp_path, row(**fields))), streams(find_runs(tmp_path)))
    return verdict


def test_the_shipped_file_loads_and_holds_the_papers_main_numbers():
    targets = {target.id: target for target in load_targets(SHIPPED)}
    assert targets["table10/mnist/bayesbinn_mode/test_accuracy"].value == 0.9886
    assert targets["table10/cifar100/full_precision/test_accuracy"].value == 0.7483
    assert targets["table7/mnist/temperature_1e-3/test_accuracy"].value == 0.904
    assert targets["table11/mnist/lrnet/test_accuracy"].value == 0.9947
    assert targets["vcl/permuted_mnist_10_raw/guyrom27/vcl/after_10"].value == 0.9007
    assert targets["vcl/permuted_mnist_10_raw/aml-team-2/vcl_coreset/after_10"].value == 0.9357
    assert all(0 <= t.tolerance <= 0.03 and -0.1 <= t.value <= 1 for t in targets.values())


@pytest.mark.parametrize(
    ("value", "outcome", "text"),
    [
        (0.90, "reproduced", "reproduced"),
        (0.91, "reproduced", "reproduced"),
        (0.80, "reproduced", "reproduced"),
        (0.9101, "short", "short by 1.01 points"),
    ],
)
def test_the_tolerance_is_one_sided(make_run, tmp_path, value, outcome, text):
    for seed in range(2):
        make_run("bayesbinn", seed, average_accuracy=0.89 + 0.02 * seed)
    verdict = judge(tmp_path, value=value)
    assert (verdict.outcome, verdict.text, verdict.ours.n) == (outcome, text, 2)
    assert verdict.gap == pytest.approx(0.9 - value)


def test_lower_is_better_where_it_is(make_run, tmp_path):
    make_run("bayesbinn", 0, nll=0.5)
    assert judge(tmp_path, metric="nll", value=0.6).outcome == "reproduced"
    short = judge(tmp_path, metric="nll", value=0.4)
    assert (short.outcome, short.text) == ("short", "short by 0.10")


def test_lower_is_better_of_training_and_test_alike(make_run, tmp_path):
    make_run("bayesbinn", 0, test_mse=0.357)
    assert judge(tmp_path, metric="test_mse", value=0.01).outcome == "short"


@pytest.mark.parametrize("note", ["options.lr 0.5 instead of 0.001", "benchmark.tasks.count 2 instead of 5"])
def test_other_settings_are_shown_but_not_judged(make_run, tmp_path, note):
    make_run("bayesbinn", 0, epochs=100, protocol=[note])
    verdict = judge(tmp_path, value=0.01, epochs=100)
    assert (verdict.outcome, verdict.text) == ("other settings", f"other settings ({note})")
    assert judge(tmp_path, value=0.01, where=note.partition(" ")[0] + "=0.001").outcome in ("reproduced", "not run")
    make_run("bayesbinn", 0, epochs=100, digest="22222222", average_accuracy=0.5)
    assert judge(tmp_path, value=0.01, epochs=100).ours.mean == 0.5, "the shipped settings come first"


def test_more_seeds_of_the_published_length_come_before_a_longer_run(make_run, tmp_path):
    for seed in range(2):
        make_run("bayesbinn", seed, epochs=100, average_accuracy=0.4)
    make_run("bayesbinn", 0, epochs=1000, digest="22222222", average_accuracy=0.9)
    verdict = judge(tmp_path, value=0.8, epochs=100)
    assert (verdict.outcome, verdict.ours.n) == ("short", 2)


def test_a_copied_run_is_no_second_seed(make_run, tmp_path):
    folder = make_run("bayesbinn", 0, average_accuracy=0.9)
    shutil.copytree(folder, folder.with_name("seed-1"))
    shutil.copytree(tmp_path / "permuted_mnist", tmp_path / "backup")
    assert judge(tmp_path, value=0.9).ours.n == 1


def test_fewer_epochs_are_shown_but_not_judged(make_run, tmp_path):
    make_run("bayesbinn", 0, epochs=10)
    verdict = judge(tmp_path, value=0.01, epochs=100)
    assert (verdict.outcome, verdict.text) == ("shorter run", "shorter run (10 of 100 epochs)")
    make_run("bayesbinn", 0, epochs=100, digest="22222222")
    assert judge(tmp_path, value=0.01, epochs=100).outcome == "reproduced"


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        ("options.temperature=0.01", True),
        ("options.temperature=1e-2 mc_samples=100 batch_norm=running", True),
        ("benchmark.tasks.count=5", True),
        ("options.hidden=[100,100]", True),
        ("options.temperature=1e-3", False),
        ("batch_norm=batch", False),
        ("options.absent=1", False),
    ],
)
def test_settings_must_hold(make_run, tmp_path, where, fits):
    make_run("bayesbinn", 0, options={"hidden": [100, 100]})
    quoted = f'"{where}"'
    assert (judge(tmp_path, where=quoted, value=0.1).outcome == "reproduced") is fits


def test_after_a_task_is_read_from_the_matrix(make_run, made_up, tmp_path):
    make_run("bayesbinn", 0)
    verdict = judge(tmp_path, metric="average_accuracy@3", value=0.1)
    assert verdict.ours.mean == pytest.approx(made_up(5, 0)[3, :3].mean(), abs=1e-6)
    assert judge(tmp_path, metric="average_accuracy@6").outcome == "not run"


def test_the_average_of_one_task_is_its_test_accuracy(make_run, made_up, tmp_path):
    make_run("bayesbinn", 0, matrix=made_up(1, 0), average_accuracy=0.93)
    assert judge(tmp_path, metric="test_accuracy").ours.mean == 0.93


def test_unfinished_runs_do_not_count(make_run, tmp_path):
    make_run("bayesbinn", 0, finished=False)
    make_run("vcl", 0, average_accuracy=0.99)
    assert judge(tmp_path).text == "not run"


def test_all_faults_are_named_at_once(tmp_path):
    path = write(
        tmp_path,
        row(value="much"),
        row(where="mode"),
        row(epochs="ten"),
        row(metric="nll@3"),
        "a,b,c",
        row().replace("printed", "rumour"),
    )
    with pytest.raises(UserError) as caught:
        load_targets(path)
    lines = str(caught.value).splitlines()
    assert [int(line.removeprefix(f"{path}:").split(":")[0]) for line in lines] == [2, 3, 4, 5, 6, 7]


def test_missing_or_foreign_files_are_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        load_targets(tmp_path / "absent.csv")
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="the columns must be id,benchmark"):
        load_targets(tmp_path / "other.csv")
    with pytest.raises(UserError, match="stands twice"):
        load_targets(write(tmp_path, row(), row()))


def test_settings_that_targets_ask_for_exist():
    known = set(recipes.catalogue("strategies"))
    for target in load_targets(recipes.catalogue_folder("benchmarks") / "targets.csv"):
        if target.strategy not in known or target.benchmark in ("mnist", "cifar10", "cifar100"):
            continue
        strategy = yaml.safe_load(recipes.dump(recipes.load_strategy(target.strategy)))
        for key, _ in target.where:
            head, _, last = key.partition(".")
            assert not last or last in strategy[head], f"{target.id}: {target.strategy} has no {key}"


def test_an_error_is_better_where_it_is_lower(make_run, tmp_path):
    make_run("bayesbinn", 0, test_error=0.30)
    assert judge(tmp_path, metric="test_error", value=0.10).outcome == "short"
    assert judge(tmp_path, metric="test_error", value=0.50).outcome == "reproduced"


def test_what_was_measured_does_not_choose_among_groups(make_run, tmp_path):
    make_run("bayesbinn", 0, average_accuracy=0.95, digest="aaaaaaaa")
    make_run("bayesbinn", 0, average_accuracy=0.5, digest="bbbbbbbb")
    assert judge(tmp_path, value=0.9).ours.mean == 0.5


def test_the_test_accuracy_of_one_task_is_no_average_over_many(make_run, tmp_path):
    make_run("bayesbinn", 0, average_accuracy=0.95)
    assert judge(tmp_path, metric="test_accuracy", value=0.9).outcome == "not run"
