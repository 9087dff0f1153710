"""Runs that are killed, stopped or damaged, and go on: the end must be the one of a run left alone, bit for bit."""

import os
import random
import signal
import time

import pytest

from clbinn.experiments.run import run
from clbinn.experiments.store import run_path


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
