import csv
import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from clbinn import evaluation
from clbinn.errors import RecipeError, RunError, UserError
from clbinn.experiments import checkpoint
from clbinn.experiments.build import choose_device
from clbinn.experiments.files import make_folder
from clbinn.experiments.run import run
from clbinn.experiments.store import BusyError, run_path
from clbinn.experiments.summary import differences
from clbinn.recipes import load_strategy
from clbinn.schema import BenchmarkRecipe, StrategyRecipe, TargetSpec


@pytest.fixture(scope="module")
def finished(kit, tmp_path_factory):
    """One run of the plain strategy, and what it told on the way."""
    told = []
    out = tmp_path_factory.mktemp("runs")
    path = run(kit.stream(3), kit.plain(), 4, out, progress=told.append)
    return path, told, out


def read(path, name):
    return json.loads((path / name).read_text())


def matrix(path):
    with (path / "accuracy_matrix.csv").open() as file:
        return np.array([[float(v) for v in row[1:]] for row in list(csv.reader(file))[1:]])


def test_run_folder(kit, finished):
    path, told, out = finished
    assert path.relative_to(out).parts[0] == "tiny"
    assert path.name == "seed-4"
    recipe = yaml.safe_load((path / "recipe.yaml").read_text())
    assert BenchmarkRecipe.model_validate(recipe["benchmark"]) == kit.stream(3)
    assert StrategyRecipe.model_validate(recipe["strategy"]) == kit.plain()
    assert recipe["seed"] == 4
    header = (path / "accuracy_matrix.csv").read_text().splitlines()[0]
    assert header == "trained_task,test_task_1,test_task_2,test_task_3"
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == [
        "start",
        *["evaluation"] * 3,
        *(["epoch"] * 3 + ["evaluation"] * 3 + ["task"]) * 3,
        "end",
    ]
    assert [e for e in told if e["event"] not in ("progress", "summary", "note")] == events[:-1]
    assert read(path, "environment.json")["hashes"].keys() == {"data:digits", "permutations"}
    assert (path / "accuracy_matrix.png").stat().st_size > 5000


def test_summary_is_of_the_matrix(finished):
    path, *_ = finished
    summary, R = read(path, "summary.json"), matrix(path)
    assert R.shape == (4, 3)
    for name in ("average_accuracy", "backward_transfer", "forgetting", "learning_accuracy", "forward_transfer"):
        assert summary[name] == pytest.approx(getattr(evaluation, name)(R))
    assert summary["learning_accuracy"] > 0.5 > R[0].mean()
    assert (summary["parameters"], summary["weight_bits"]) == (64 * 20 + 20 + 20 * 10 + 10, 32)
    assert summary["resume"] == "exact"
    assert (summary["num_tasks"], summary["epochs"], summary["seed"]) == (3, 3, 4)


def test_last_row_is_what_the_kept_network_gets(kit, finished):
    from clbinn.benchmarks import load
    from clbinn.nn.build import build_model

    path, *_ = finished
    stream = load(kit.stream(3))
    model = build_model(kit.plain().model, stream.info.input_shape, stream.info.num_classes)
    model.load_state_dict(torch.load(path / "checkpoint.pt", weights_only=True)["learner"]["model"])
    model.eval()
    for j, experience in enumerate(stream.test_stream):
        x = torch.stack([item[0] for item in experience.dataset])
        y = torch.tensor([item[1] for item in experience.dataset])
        assert (model(x).argmax(1) == y).double().mean().item() == matrix(path)[-1, j]


def test_finished_run_is_left_alone(kit, finished):
    path, _, out = finished
    before = {p.name: p.stat().st_mtime_ns for p in path.glob("[!.]*")}
    told = []
    assert run(kit.stream(3), kit.plain(), 4, out, progress=told.append) == path
    assert [event["event"] for event in told] == ["note"]
    assert {p.name: p.stat().st_mtime_ns for p in path.glob("[!.]*")} == before


def test_other_runs_before_change_nothing(kit, finished, tmp_path):
    path, *_ = finished
    run(kit.stream(), kit.strategy("bayesbinn"), 9, tmp_path, progress=False)
    torch.rand(7)
    again = run(kit.stream(3), kit.plain(), 4, tmp_path, progress=False)
    assert kit.same(kit.outcome(again), kit.outcome(path))


def test_seeds_differ(kit, finished, tmp_path):
    path, *_ = finished
    other = run(kit.stream(3), kit.plain(), 5, tmp_path, progress=False)
    assert not np.array_equal(matrix(other), matrix(path))


@pytest.mark.parametrize(("seed", "streams"), [(0, 1), ("run", 2)])
def test_permutations_of_the_run_s_seed(kit, tmp_path, seed, streams):
    tasks = {"kind": "permute_pixels", "count": 1, "seed": seed}
    paths = [run(kit.stream(tasks=tasks), kit.plain(), number, tmp_path, progress=False) for number in (1, 2)]
    assert len({read(path, "environment.json")["hashes"]["permutations"] for path in paths}) == streams


@pytest.mark.parametrize("name", ["bayesbinn", "ste", "bop", "pmf", "synaptic_metaplasticity"])
def test_heads_of_all_tasks_are_learned_and_binary(kit, tmp_path, name):
    tasks = {"kind": "split_classes", "per_task": 5}
    path = run(kit.stream(tasks=tasks, scenario="task"), kit.strategy(name), 0, tmp_path, progress=False)
    learner = torch.load(path / "checkpoint.pt", weights_only=True)["learner"]
    weights = {name: value for name, value in learner["model"].items() if value.ndim == 2}
    assert sum("heads" in name for name in weights) == 2
    assert all(bool((value.abs() == 1).all()) for value in weights.values())
    assert len(learner["optimizer"]["state"]) == len(weights)


def test_protocol_names_the_differences(kit, tmp_path):
    path = run(kit.stream(), kit.strategy("bayesbinn"), 0, tmp_path, progress=False)
    summary = read(path, "summary.json")
    assert "train.epochs 3 of 100" in summary["protocol"]
    assert "options.temperature 0.5 instead of 0.01" in summary["protocol"]
    assert (summary["weight_bits"], summary["mc_samples"], summary["batch_norm"]) == (1, 5, "running")


def test_protocol_names_plugins_by_their_class_and_no_observers(kit):
    weights = TargetSpec(target="clbinn.experiments.weight_histogram.WeightHistogram")
    stop = TargetSpec(target="avalanche.training.plugins.EarlyStoppingPlugin", options={"patience": 2})
    shipped = load_strategy("bayesbinn")
    assert differences(shipped.model_copy(update={"plugins": [weights], "title": "Mine"})) == []
    changed = shipped.model_copy(update={"plugins": [stop, weights]})
    assert differences(changed) == ["plugins EarlyStoppingPlugin(patience=2) instead of none"]


def test_full_disk_before_there_is_a_folder(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunError, match=r"can't write any more \(No space left on device\).*make room"):
        make_folder(tmp_path / "runs")


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "avalanche.training.Naiv"}, "Naiv"),
        ({"options": {"learning_rate": 1}}, "no such option"),
        ({"optimizer": None}, "needs 'optimizer'"),
        ({"optimizer": {"target": "torch.optim.Adam", "options": {"lr": -1.0}}}, "optimizer torch.optim.Adam: Invalid"),
        ({"plugins": [{"target": "avalanche.training.plugins.EWCPlugin"}]}, "ewc_lambda"),
        ({"target": "avalanche.training.JointTraining"}, "use `joint`"),
    ],
)
def test_recipe_that_cannot_be_used(kit, tmp_path, changes, message):
    with pytest.raises(RecipeError, match=message):
        run(kit.stream(), kit.plain(**changes), 0, tmp_path, progress=False)
    assert not any(tmp_path.iterdir())  # no folder of a run that never was


def test_no_such_device(kit, tmp_path):
    with pytest.raises(UserError, match="device 'cuda:99' can't be used"):
        run(kit.stream(), kit.plain(), 0, tmp_path, device="cuda:99", progress=False)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is such a device")
def test_no_such_device_is_said_in_one_sentence():
    with pytest.raises(UserError, match=r"^device 'mps' can't be used: .{10,100}$"):
        choose_device("mps")


def test_loss_that_is_not_finite_stops_the_run(kit, tmp_path):
    strategy = kit.plain(
        optimizer={"target": "torch.optim.SGD", "options": {"lr": 1e30}},
        model={"kind": "mlp", "hidden": [20], "norm": "none", "bias": True},
    )
    with pytest.raises(RunError, match=r"task 1, epoch 1, step \d+: the loss is (nan|inf).*learning rate"):
        run(kit.stream(), strategy, 0, tmp_path, progress=False)
    events = (run_path(tmp_path, kit.stream(), strategy, 0) / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["status"] == "failed"


def test_too_little_memory_is_one_message_with_the_cure(kit, tmp_path):
    strategy = kit.plain(model={"kind": "mlp", "hidden": [10**12]})
    with pytest.raises(RunError, match=r"the memory doesn't suffice \(.*allocate .*\)\. Make .*batch_size.*smaller"):
        run(kit.stream(), strategy, 0, tmp_path, progress=False)


def test_summary_is_the_last_file_that_is_written(kit, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clbinn.report.figures.accuracy_matrix", full)
        with pytest.raises(RunError, match="No space left"):
            run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)
    path = run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)
    assert (path / "accuracy_matrix.png").exists()


# --- two processes, signals, disks ------------------------------------------------------------------------------------


def test_two_processes_on_one_run(kit, tmp_path):
    strategy = kit.plain(train={"epochs": 1000, "batch_size": 50})
    path = run_path(tmp_path, kit.stream(), strategy, 0)
    pid = kit.fork(lambda: run(kit.stream(), strategy, 0, tmp_path, progress=False))
    while not (path / "events.jsonl").exists():
        pass
    with pytest.raises(BusyError, match=rf"process \(pid {pid}\) works on this run"):
        run(kit.stream(), strategy, 0, tmp_path, progress=False)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"seed": 3}'])
def test_damaged_or_foreign_summary_is_written_anew(kit, tmp_path, content):
    path = run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)
    whole = kit.outcome(path)
    (path / "summary.json").write_bytes(content)
    run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)
    assert kit.same(kit.outcome(path), whole)


@pytest.mark.parametrize("name", [".lock", "recipe.yaml", "checkpoint.pt", "events.jsonl"])
def test_folder_where_a_file_is_expected(kit, tmp_path, name):
    path = run_path(tmp_path, kit.stream(), kit.plain(), 0)
    (path / name).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{name}: Is a directory; set that right, or choose another --out"):
        run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk can't be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(kit, small_disk, tmp_path):
    strategy = kit.strategy("bayesbinn", "model.hidden=[100, 100]")  # one checkpoint fits, two don't
    alone = run(kit.stream(), strategy, 0, tmp_path, progress=False)
    with pytest.raises(RunError, match=r"No space left on device.*intact.*same command"):
        run(kit.stream(), strategy, 0, small_disk, progress=False, checkpoint_seconds=0.0)
    path = run_path(small_disk, kit.stream(), strategy, 0)
    state, faults = checkpoint.load_latest(path)
    assert (state["task"], state["iteration"], faults) == (1, 1, [])
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    run(kit.stream(), strategy, 0, small_disk, progress=False)
    assert kit.same(kit.outcome(path), kit.outcome(alone))


def test_write_that_fails(kit, tmp_path, monkeypatch):
    def full(folder, state):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(RunError, match=r"No space left on device.*intact"):
        run(kit.stream(), kit.plain(), 0, tmp_path, progress=False)
