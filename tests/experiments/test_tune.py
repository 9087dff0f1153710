import errno
import re
from functools import partial

import pytest

from clbinn.errors import RecipeError, RunError, UserError
from clbinn.experiments.tune import first_tasks, tune, with_settings
from clbinn.recipes import load_strategy
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
    assert changed.options["lr"] == 0.5
    assert changed.model.model_extra["norm"] == "layer"
    assert changed.train == kit.strategy("bayesbinn").train
