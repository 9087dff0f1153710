import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from clbinn.errors import UserError
from clbinn.experiments import grid, job
from clbinn.experiments.engines import local
from clbinn.experiments.grid import run_grid
from clbinn.experiments.interrupts import Interrupted
from clbinn.experiments.run import run
from clbinn.experiments.store import RunFolder, run_path

SLOW_RUN = ("train.epochs=400",)


def wait_for_an_epoch(path):
    events = path / "events.jsonl"
    while not events.exists() or b"epoch" not in events.read_bytes():
        time.sleep(0.01)


def last_event(path):
    last = json.loads((path / "events.jsonl").read_text().splitlines()[-1])
    return last["event"], last.get("status")


@pytest.fixture(scope="module")
def strategies(kit):
    return [kit.strategy("bayesbinn"), kit.plain()]


@pytest.fixture(scope="module")
def alone(kit, strategies, tmp_path_factory):
    """What each run gives in this process, one after the other."""
    out = tmp_path_factory.mktemp("alone")
    paths = [run(kit.stream(), s, seed, out, progress=False, device="cpu") for seed in (0, 1) for s in strategies]
    return [kit.outcome(path) for path in paths]


def test_same_numbers_whatever_the_number_of_jobs(kit, tmp_path, strategies, alone, capfd):
    results = run_grid(kit.stream(), strategies, [0, 1], out=tmp_path, jobs=2, device="cpu")
    assert [(r.strategy, r.seed, r.status) for r in results] == [
        ("bayesbinn", 0, "done"),
        ("plain", 0, "done"),
        ("bayesbinn", 1, "done"),
        ("plain", 1, "done"),
    ]
    assert all(kit.same(kit.outcome(r.path), expected) for r, expected in zip(results, alone, strict=True))
    shown = capfd.readouterr().err
    assert "plain seed 1: task 2 of 2 learned" in shown
    again = run_grid(kit.stream(), strategies, [0, 1], out=tmp_path, jobs=2)
    assert {r.status for r in again} == {"skipped"}
    assert "4 of 4 runs were finished before" in capfd.readouterr().err


def test_a_failed_run_lets_the_others_finish(kit, tmp_path):
    crash = kit.plain(name="crash", model={"kind": "os:_exit"})
    wrong = kit.plain(name="wrong", options={"wrong": 1})
    results = run_grid(kit.stream(), [crash, wrong, kit.plain()], [0], out=tmp_path, progress=False)
    assert [r.status for r in results] == ["failed", "failed", "done"]
    assert "no such option" in results[1].message
    assert results[1].users_mistake


def test_workers_import_nothing_from_the_working_folder(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    for name in ("csv", "of_a_stranger"):
        (tmp_path / f"{name}.py").write_text(f"open('{name}.ran', 'w')")
    strategy = kit.plain(model={"kind": "of_a_stranger:Net"})
    with pytest.raises(UserError, match="No module named 'of_a_stranger'"):
        run_grid(kit.stream(), [strategy], [0], out=tmp_path, progress=False)
    assert not list(tmp_path.glob("*.ran"))


def test_a_process_that_dies_is_reported_and_replaced(kit, tmp_path):
    results = []

    def kill():
        path = run_path(tmp_path, kit.stream(), slow, 0)
        while not (path / "events.jsonl").exists():
            time.sleep(0.01)
        os.kill(int((path / ".lock").read_text()), signal.SIGKILL)

    slow = kit.strategy("bayesbinn", *SLOW_RUN)
    thread = threading.Thread(target=kill)
    thread.start()
    results = run_grid(kit.stream(), [slow, kit.plain()], [0], out=tmp_path, progress=False)
    thread.join()
    assert [r.status for r in results] == ["failed", "done"]
    assert "ended by signal SIGKILL; the same command goes on with it" in results[0].message


def test_a_process_that_is_stopped_alone_saves_and_counts_as_failed(kit, tmp_path):
    slow = kit.strategy("bayesbinn", *SLOW_RUN)
    path = run_path(tmp_path, kit.stream(), slow, 0)

    def stop():
        wait_for_an_epoch(path)
        for _ in range(2):  # as by a scheduler, and by the process that started it
            os.kill(int((path / ".lock").read_text()), signal.SIGTERM)
            time.sleep(0.001)

    thread = threading.Thread(target=stop)
    thread.start()
    results = run_grid(kit.stream(), [slow, kit.plain()], [0], out=tmp_path, progress=False)
    thread.join()
    assert [r.status for r in results] == ["failed", "done"]
    assert "stopped; the same command goes on from here" in results[0].message
    assert last_event(path) == ("end", "interrupted")
    assert (path / "checkpoint.pt").exists()


def test_last_words_in_any_encoding(kit, tmp_path, monkeypatch):
    (tmp_path / "last_words.py").write_text("import os\nos.write(2, b'caf\\xe9')\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    [result] = run_grid(kit.stream(), [kit.plain(model={"kind": "last_words:Net"})], [0], out=tmp_path, progress=False)
    assert (result.status, "with status 3" in result.message, "caf\ufffd" in result.message) == ("failed", True, True)


def test_a_process_that_can_not_be_started_fails_its_run_alone(kit, tmp_path, monkeypatch):
    start, calls = local._Slot._start, []

    def refuse_the_first(slot):
        calls.append(slot)
        if len(calls) == 1:
            raise OSError(12, "Cannot allocate memory")
        return start(slot)

    monkeypatch.setattr(local._Slot, "_start", refuse_the_first)
    results = run_grid(kit.stream(), [kit.plain()], [0, 1], out=tmp_path, progress=False)
    assert [r.status for r in results] == ["failed", "done"]
    assert "could be started" in results[0].message


def test_a_recipe_given_twice_is_run_once(kit, tmp_path):
    results = run_grid(kit.stream(), [kit.plain(), kit.plain()], [0], out=tmp_path, progress=False)
    assert [r.status for r in results] == ["done"]


def test_stop_reaches_a_process_that_is_being_started(kit, tmp_path, monkeypatch):
    start = local._Slot._start
    monkeypatch.setattr(local._Slot, "_start", lambda slot: time.sleep(0.5) or start(slot))
    slow = kit.strategy("bayesbinn", *SLOW_RUN)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted, match="1 of 1 runs to go"):
        run_grid(kit.stream(), [slow], [0], out=tmp_path, progress=False)
    timer.join()
    assert not (run_path(tmp_path, kit.stream(), slow, 0) / "summary.json").exists()


def test_mistake_in_every_run_is_told_once(kit, tmp_path):
    wrong = kit.plain(options={"wrong": 1})
    with pytest.raises(UserError) as raised:
        run_grid(kit.stream(), [wrong], [0, 1], out=tmp_path, progress=False)
    assert str(raised.value).count("no such option") == 1


def test_busy_run_is_left_alone(kit, tmp_path, monkeypatch):
    monkeypatch.setenv("CLBINN_PATIENCE", "0")
    with RunFolder(run_path(tmp_path, kit.stream(), kit.plain(), 0)).lock():
        [result] = run_grid(kit.stream(), [kit.plain()], [0], out=tmp_path, progress=False)
    assert result.status == "failed"
    assert f"pid {os.getpid()}" in result.message


@pytest.mark.parametrize("options", [{"engine": "cloud"}, {"jobs": 0}, {"ray_address": "a:1"}, {"gpus_per_run": 0.5}])
def test_wrong_arguments(kit, tmp_path, options):
    with pytest.raises(UserError, match=next(iter(options)) if "engine" not in options else "unknown engine"):
        run_grid(kit.stream(), [kit.plain()], [0], out=tmp_path, **options)


def test_signal_stops_and_the_next_call_goes_on(kit, tmp_path):
    slow = kit.strategy("bayesbinn", *SLOW_RUN)
    path = run_path(tmp_path, kit.stream(), slow, 0)

    def stop():
        wait_for_an_epoch(path)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted, match="2 of 2 runs to go; the same command") as raised:
        run_grid(kit.stream(), [slow], [0, 1], out=tmp_path, progress=False)
    thread.join()
    assert raised.value.status == 143
    assert (path / "checkpoint.pt").exists()
    assert last_event(path) == ("end", "interrupted")


PROGRAM = """
import sys
from pathlib import Path
from clbinn.experiments.grid import run_grid
from clbinn.experiments.job import Job
import json
jobs = [Job.from_plain(plain) for plain in json.loads(sys.argv[1])]
run_grid(jobs[0].benchmark, [job.strategy for job in jobs], [0, 1], out=jobs[0].out, jobs=2, device="cpu")
"""


@pytest.mark.slow
def test_grid_that_is_killed_ends_the_same(kit, tmp_path, strategies, alone):
    plain = [job.Job(kit.stream(), s, 0, tmp_path).to_plain() for s in strategies]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(plain)], stderr=subprocess.DEVNULL)
    first = run_path(tmp_path, kit.stream(), strategies[0], 0)
    while not (first / "events.jsonl").exists():
        time.sleep(0.005)
    time.sleep(0.2)
    process.kill()
    process.wait()
    results = run_grid(kit.stream(), strategies, [0, 1], out=tmp_path, jobs=2, device="cpu", progress=False)
    assert {r.status for r in results} <= {"done", "skipped"}
    assert "done" in {r.status for r in results}
    assert all(kit.same(kit.outcome(r.path), expected) for r, expected in zip(results, alone, strict=True))


def test_parent_stays_light():
    code = f"import sys; import {grid.__name__}; assert not {{'torch', 'avalanche'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
