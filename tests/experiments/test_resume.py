"""Runs that are killed, stopped or damaged, and go on: the end must be the one of a run left alone, bit for bit."""

import json
import os
import random
import signal
import time

import pytest
import torch

from clbinn.errors import RunError, UserError
from clbinn.experiments import checkpoint, watch
from clbinn.experiments.interrupts import Interrupted
from clbinn.experiments.run import run
from clbinn.experiments.store import run_path
from clbinn.recipes import catalogue, load_strategy


def recipes(kit, name):
    if name == "plain":
        return kit.plain()
    return kit.strategy(name)


def kill_and_go_on(kit, tmp_path, strategy, stream, kills, seed, **options):
    """Kill a run at random moments, then let it finish; whether the kills hit a run that was under way."""
    alone = tmp_path / "alone"
    started = time.monotonic()
    pid = kit.fork(lambda: run(stream, strategy, 0, alone, progress=False))
    assert os.waitpid(pid, 0)[1] == 0
    duration = time.monotonic() - started
    moments = random.Random(seed)
    killed, path = 0, run_path(tmp_path / "killed", stream, strategy, 0)
    for _ in range(kills):
        pid = kit.fork(lambda: run(stream, strategy, 0, tmp_path / "killed", progress=False, **options))
        time.sleep(moments.uniform(0.05, 0.7 * duration))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        if (path / "summary.json").exists():
            break
    run(stream, strategy, 0, tmp_path / "killed", progress=False)
    expected = kit.outcome(run_path(alone, stream, strategy, 0))
    assert kit.same(kit.outcome(path), expected)
    return killed


@pytest.mark.parametrize("checkpoint_seconds", [None, 0.0], ids=["epochs", "every step"])
@pytest.mark.parametrize("name", ["bayesbinn", "plain"])
def test_killed_runs_end_as_if_left_alone(kit, tmp_path, name, checkpoint_seconds):
    killed = kill_and_go_on(
        kit, tmp_path, recipes(kit, name), kit.stream(), kills=5, seed=1, checkpoint_seconds=checkpoint_seconds
    )
    assert killed >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_fifty_kills(kit, tmp_path, seed):
    options = {"checkpoint_seconds": [None, 0.0, 0.02][seed % 3]}
    strategy = recipes(kit, ["bayesbinn", "plain"][seed % 2])
    kill_and_go_on(kit, tmp_path, strategy, kit.stream(3), kills=5, seed=100 + seed, **options)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["inside an epoch", "end of an epoch", "evaluation"])
def test_signals(kit, tmp_path, monkeypatch, number, status, moment):
    monkeypatch.setattr(watch, "TICK", -1)
    steps = []

    def progress(event):
        if event["event"] == "progress" and event["task"] == 2:
            steps.append(event)
            if moment == "inside an epoch" and len(steps) == 9:
                os.kill(os.getpid(), number)
        if moment == "end of an epoch" and event["event"] == "epoch" and (event["task"], event["epoch"]) == (2, 2):
            os.kill(os.getpid(), number)
        if moment == "evaluation" and event["event"] == "task":
            os.kill(os.getpid(), number)

    alone = run(kit.stream(), kit.strategy("bayesbinn"), 0, tmp_path / "alone", progress=False)
    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match="same command goes on") as stopped:
        run(kit.stream(), kit.strategy("bayesbinn"), 0, tmp_path / "stopped", progress=progress)
    assert stopped.value.status == status
    assert signal.getsignal(number) == handler
    told = []
    again = run(kit.stream(), kit.strategy("bayesbinn"), 0, tmp_path / "stopped", progress=told.append)
    where = {"inside an epoch": "task 2, epoch 1, step 2", "end of an epoch": "task 2, epoch 2", "evaluation": "task"}
    assert any("going on after " + where[moment] in event.get("text", "") for event in told)
    assert kit.same(kit.outcome(again), kit.outcome(alone))


def stop(kit, monkeypatch, strategy, out, stream, task=2, epoch=1):
    """Run until some steps into an epoch of a task, by default the second ones."""
    monkeypatch.setattr(watch, "TICK", -1)
    seen = []

    def progress(event):
        if event["event"] == "progress" and (event["task"], event["epoch"]) == (task, epoch):
            seen.append(event)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(stream, strategy, 0, out, progress=progress)


def small_settings(name, batch_size):
    small = ["train.epochs=2", f"train.batch_size={batch_size}", "model.hidden=[20]"]
    return [*small, "options.coreset_epochs=2"] if name.startswith("vcl_coreset") else small


@pytest.mark.parametrize("name", ["bayesbinn", "ewc", "si", "vcl", "vcl_coreset", "vcl_local"])
def test_the_very_first_epoch_goes_on_exactly(kit, tmp_path, monkeypatch, name):
    strategy, stream = load_strategy(name, small_settings(name, batch_size=20)), kit.stream()
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    stop(kit, monkeypatch, strategy, tmp_path / "stopped", stream, task=1, epoch=0)
    told = []
    again = run(stream, strategy, 0, tmp_path / "stopped", progress=told.append)
    assert any("going on after task 1" in event.get("text", "") for event in told), told
    assert kit.same(kit.outcome(again), kit.outcome(alone))


def test_a_run_does_not_go_on_with_other_data(kit, tmp_path, monkeypatch):
    strategy, stream = kit.strategy("bayesbinn"), kit.stream()
    stop(kit, monkeypatch, strategy, tmp_path, stream)
    path = run_path(tmp_path, stream, strategy, 0) / "environment.json"
    told = json.loads(path.read_text())
    told["hashes"] = dict.fromkeys(told["hashes"], "0" * 16)
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match="begun with other data"):
        run(stream, strategy, 0, tmp_path, progress=False)
    path.unlink()  # nobody knows: it goes on
    run(stream, strategy, 0, tmp_path, progress=False)


@pytest.mark.parametrize("name", [n for n in catalogue("strategies") if load_strategy(n).model.kind == "mlp"])
def test_every_shipped_strategy_goes_on_exactly(kit, tmp_path, monkeypatch, name):
    strategy, stream = load_strategy(name, small_settings(name, batch_size=50)), kit.stream()
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    stop(kit, monkeypatch, strategy, tmp_path / "stopped", stream)
    told = []
    again = run(stream, strategy, 0, tmp_path / "stopped", progress=told.append)
    assert json.loads((alone / "summary.json").read_text())["resume"] == "exact"
    task = 1 if name == "gdumb" else 2  # it can't be cut inside a task
    assert any(f"going on after task {task}" in event.get("text", "") for event in told)
    assert kit.same(kit.outcome(again), kit.outcome(alone))


def test_damaged_checkpoint_is_named_and_the_one_before_used(kit, tmp_path, monkeypatch):
    strategy, stream = kit.strategy("bayesbinn"), kit.stream()
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    stop(kit, monkeypatch, strategy, tmp_path / "damaged", stream)
    path = run_path(tmp_path / "damaged", stream, strategy, 0)
    newest = path / checkpoint.CURRENT
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    told = []
    run(stream, strategy, 0, tmp_path / "damaged", progress=told.append)
    notes = [event["text"] for event in told if event["event"] == "note"]
    assert "checkpoint.pt is damaged" in notes[0]
    assert "the checkpoint before it is used" in notes[0]
    assert "going on after" in notes[1]
    assert kit.same(kit.outcome(path), kit.outcome(alone))


def test_a_checkpoint_of_another_version_is_named_and_kept(kit, tmp_path, monkeypatch):
    strategy, stream = kit.strategy("bayesbinn"), kit.stream()
    stop(kit, monkeypatch, strategy, tmp_path, stream)
    path = run_path(tmp_path, stream, strategy, 0)
    state = checkpoint.load(path / checkpoint.CURRENT)
    state["learner"]["optimizer"]["noise"]["cpu"] = torch.zeros(4, dtype=torch.int64)
    checkpoint.save(path, state)
    with pytest.raises(RunError, match=r"seed-0: the checkpoint doesn't fit .*random stream.*move the folder away"):
        run(stream, strategy, 0, tmp_path, progress=False)
    assert checkpoint.load(path / checkpoint.CURRENT)["task"] == state["task"]


def test_lost_events_begin_again(kit, tmp_path, monkeypatch):
    strategy, stream = kit.strategy("bayesbinn"), kit.stream()
    stop(kit, monkeypatch, strategy, tmp_path, stream)
    path = run_path(tmp_path, stream, strategy, 0)
    (path / "events.jsonl").write_text("")
    told = []
    run(stream, strategy, 0, tmp_path, progress=told.append)
    assert "events.jsonl is shorter" in next(event["text"] for event in told if event["event"] == "note")
    assert len((path / "accuracy_matrix.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"accuracy"', '"accurac\xff"'), "is damaged"),
        (lambda text: text.replace("{", "(", 1), "is damaged"),
        (lambda text: text.replace('"test_task": 2', '"test_task": 1'), "is damaged"),
        (lambda text: text.replace('"seed": 0', '"seed": 7'), "is of seed 7"),
    ],
)
def test_damaged_events_begin_again(kit, tmp_path, monkeypatch, damage, message):
    strategy, stream = kit.strategy("bayesbinn"), kit.stream()
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    stop(kit, monkeypatch, strategy, tmp_path, stream)
    path = run_path(tmp_path, stream, strategy, 0)
    text = (path / "events.jsonl").read_text()
    (path / "events.jsonl").write_bytes(damage(text).encode("latin-1").ljust(len(text)))
    told = []
    run(stream, strategy, 0, tmp_path, progress=told.append)
    assert f"events.jsonl {message}; the run begins again" in next(e["text"] for e in told if e["event"] == "note")
    assert kit.same(kit.outcome(path), kit.outcome(alone))
