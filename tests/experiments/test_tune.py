import errno
import re
from functools import partial

import pytest

from clbinn.errors import RecipeError, RunError, UserError
from clbinn.experiments.tune import first_tasks, tune, with_settings
from clbinn.recipes import load_benchmark, load_strategy
from clbinn.schema import BenchmarkRecipe

pytest.importorskip("optuna")

SPACE = """
search:
  options.lr: {low: 1e-4, high: 0.05, log: true}
  options.init_natural: [0.0, 10.0]
  train.epochs: {low: 1, high: 3}
tasks: 1
"""


def write(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return path


def test_winner_is_the_best_trial_and_a_recipe(kit, tmp_path):
    space = write(tmp_path, SPACE)
    told = []
    path = tune(
        kit.stream(), kit.strategy("bayesbinn"), space, out=tmp_path, trials=2, device="cpu", report=told.append
    )
    assert [line.partition(":")[0] for line in told] == ["trial 1 of 2", "trial 2 of 2"]
    assert all(re.search(r": 0\.\d{4} with options\.lr \S+, options\.init_natural", line) for line in told)
    again = tune(kit.stream(), kit.strategy("bayesbinn"), space, out=tmp_path, trials=4, device="cpu")
    assert again == path
    runs = sorted(tmp_path.glob("tiny/tune-bayesbinn-*/tiny/bayesbinn-*/seed-0/summary.json"))
    assert 1 < len(runs) <= 4
    winner = load_strategy(path)
    assert winner.name == "bayesbinn_found"
    best = max(float(r.read_text().split('"average_accuracy": ')[1].split(",")[0]) for r in runs)
    assert f"4 trials, selected by average accuracy ({best:.4f}, seed 0)" in winner.provenance
    assert "the first 1 tasks of the stream tiny" in winner.provenance
    assert 1e-4 <= winner.options["lr"] <= 0.05
    assert winner.options["init_natural"] in (0.0, 10.0)
    assert winner.train.epochs in (1, 2, 3)


def test_code_that_the_file_names_is_told_before_it_runs(kit, tmp_path):
    (tmp_path / "other.yaml").write_text(
        "name: other\nsource: {dataset: 'a_stranger:data'}\ntasks: {kind: permute_pixels, count: 1}\n"
    )
    text = f"search: {{target: [a_stranger.Method]}}\nstream: {tmp_path / 'other.yaml'}\n"
    told = []
    with pytest.raises(RecipeError, match="there is no module 'a_stranger'"):
        tune(kit.stream(), kit.plain(), write(tmp_path, text), out=tmp_path, report=told.append)
    assert [line.partition(" runs ")[2] for line in told] == ["a_stranger:data", "a_stranger.Method"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"space\.yaml:1:1: expected a mapping"),
        ("search: {}", r"space\.yaml:1:9: search: must not be empty"),
        ("search: {options.lr: []}", r"space\.yaml:1:22: search\.options\.lr: expected a list of choices"),
        ("serch: {options.lr: [0.1]}", "did you mean 'search'"),
        ("search: {train.epochs: [1, abc]}", "search: train.epochs: expected a whole number, not 'abc'"),
        ("search: {train.epochs: {low: 0, high: 5}}", "must be at least 1"),
        ("search: {options.lr: [0.1, abc, 0.2, 0.3, 0.4]}", "expects a number, not 'abc'"),
        ("search: {options.lr: {low: 2, high: 1}}", "with low under high"),
        ("search: {options.lr: {low: 0, high: 1, log: true}}", "above 0 for log"),
        ("search: {train.epoch: [1]}", "train.epoch: unknown key; did you mean 'epochs'"),
        ("search: {nothing.here: [1]}", "no 'nothing.here'"),
        ("search: {options.lr: [0.1]}\nstream: nowhere", "unknown benchmark 'nowhere'"),
        ("trials: 3", "trials"),
    ],
)
def test_space_that_cannot_be_used(kit, tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        tune(kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, text), out=tmp_path, trials=1)


def test_folder_and_record_that_cannot_be_used(kit, tmp_path):
    search = partial(tune, kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, SPACE), trials=1, device="cpu")
    with pytest.raises(UserError, match=r"space\.yaml/sub.*can't be made"):
        search(out=tmp_path / "space.yaml" / "sub")
    log = search(out=tmp_path).with_name("trials.log")
    log.write_text("{broken\n" + log.read_text())
    with pytest.raises(UserError, match=r"trials\.log is damaged"):
        search(out=tmp_path)


def test_record_that_was_cut_off_goes_on(kit, tmp_path):
    search = partial(tune, kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, SPACE), out=tmp_path, device="cpu")
    log = search(trials=1).with_name("trials.log")
    log.write_bytes(log.read_bytes() + b'{"op_code":6,"worker_id":"')
    told = []
    search(trials=2, report=told.append)
    assert [line.partition(":")[0] for line in told] == ["trial 2 of 2"]
    assert all(line.endswith("}") for line in log.read_text().splitlines())


def test_a_setting_that_only_the_data_refuse(kit, tmp_path, monkeypatch):
    calls = []

    def run(stream, tried, seed, out, **settings):
        calls.append(tried.train.epochs)
        if len(calls) in refused:
            raise UserError("too many for these data")
        (tmp_path / "summary.json").write_text('{"average_accuracy": 0.5}')
        return tmp_path

    monkeypatch.setattr("clbinn.experiments.run.run", run)
    space = write(tmp_path, "search: {train.epochs: {low: 1, high: 90}}")
    search = partial(tune, kit.stream(), kit.strategy("bayesbinn"), space, out=tmp_path, trials=3)
    refused = (1,)
    with pytest.raises(UserError, match=rf"too many for these data \(with train\.epochs {calls or '[0-9]+'}\)"):
        search()
    refused, told = (3,), []
    path = search(report=told.append)
    assert [line.partition(" with")[0] for line in told if line.startswith("trial")] == [
        "trial 1 of 3: 0.5000",
        "trial 2 of 3: failed",
        "trial 3 of 3: 0.5000",
    ]
    assert "too many for these data" in told
    assert load_strategy(path).provenance.startswith("2 trials")


def test_a_name_that_is_long_already(kit, tmp_path):
    method = kit.strategy("bayesbinn").model_copy(update={"name": "a" * 64})
    path = tune(kit.stream(), method, write(tmp_path, SPACE), out=tmp_path, trials=1, device="cpu")
    assert load_strategy(path).name == "a" * 58 + "_found"


def test_a_stream_that_was_changed_is_told(kit, tmp_path):
    stream = load_benchmark("permuted_digits", ["benchmark.tasks.count=1", "benchmark.source.train_size=50"])
    tiny = "search: {train.epochs: [1]}"
    path = tune(stream, kit.strategy("naive"), write(tmp_path, tiny), out=tmp_path, trials=1, device="cpu")
    assert "the stream permuted_digits with benchmark.source.train_size 50 instead of" in load_strategy(path).provenance
    with pytest.raises(UserError, match=r"so this has no effect: benchmark\.source\.train_size 50"):
        tune(stream, kit.strategy("naive"), write(tmp_path, f"{tiny}\nstream: permuted_digits"), out=tmp_path)


def test_files_of_another_user(kit, tmp_path, monkeypatch):
    def denied(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", source, None, target)

    monkeypatch.setattr("os.symlink", denied)
    with pytest.raises(UserError, match=r"trials\.log.*: Permission denied; set that right"):
        tune(kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, SPACE), out=tmp_path, trials=1, device="cpu")


def test_a_full_disk_is_no_bad_setting(kit, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise RunError("no room") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("clbinn.experiments.run.run", full)
    with pytest.raises(RunError, match="no room"):
        tune(kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, SPACE), out=tmp_path, trials=1, device="cpu")


def test_first_tasks(kit):
    assert first_tasks(kit.stream(5), 2).tasks.count == 2
    with pytest.raises(UserError, match="tasks: 2 is more than the stream tiny has, 1"):
        first_tasks(kit.stream(1), 2)
    turned = kit.stream(tasks={"kind": "rotate", "degrees": [0, 10, 20]})
    assert first_tasks(turned, 2).tasks.degrees == [0, 10]
    unlike = kit.stream(source=None, tasks=[{"dataset": "digits"}] * 3)
    assert len(first_tasks(unlike, 2).tasks) == 2
    foreign = BenchmarkRecipe.model_validate(
        {"name": "a", "tasks": {"kind": "avalanche", "benchmark": "PermutedMNIST"}}
    )
    with pytest.raises(UserError, match="can't be cut"):
        first_tasks(foreign, 2)


def test_settings_leave_the_rest(kit):
    changed = with_settings(kit.strategy("bayesbinn"), {"options.lr": 0.5, "model.norm": "layer"})
    assert with_settings(load_strategy("bop"), {"plugins.0.options.gamma": 0.5}).plugins[0].options["gamma"] == 0.5
    assert with_settings(kit.strategy("bayesbinn"), {"model.hidden.0": 7}).model.model_extra["hidden"][0] == 7
    with pytest.raises(RecipeError, match=r"no 'plugins\.9\.options"):
        with_settings(load_strategy("bop"), {"plugins.9.options.gamma": 0.5})
    assert changed.options["lr"] == 0.5
    assert changed.model.model_extra["norm"] == "layer"
    assert changed.train == kit.strategy("bayesbinn").train
