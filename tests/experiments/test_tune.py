import pytest

from clbinn.errors import RecipeError, UserError
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
    path = tune(kit.stream(), kit.strategy("bayesbinn"), space, out=tmp_path, trials=2, device="cpu")
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {}", "search"),
        ("search: {options.lr: {low: 2, high: 1}}", "with low under high"),
        ("search: {options.lr: {low: 0, high: 1, log: true}}", "above 0 for log"),
        ("search: {train.epoch: [1]}", "train.epoch"),
        ("search: {nothing.here: [1]}", "no 'nothing.here'"),
        ("search: {options.lr: [0.1]}\nstream: nowhere", "unknown benchmark 'nowhere'"),
        ("trials: 3", "trials"),
    ],
)
def test_space_that_cannot_be_used(kit, tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        tune(kit.stream(), kit.strategy("bayesbinn"), write(tmp_path, text), out=tmp_path, trials=1)


def test_first_tasks(kit):
    assert first_tasks(kit.stream(5), 2).tasks.count == 2
    assert first_tasks(kit.stream(1), 2).tasks.count == 1
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
