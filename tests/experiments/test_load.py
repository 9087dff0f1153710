"""Many tasks, many runs, and what checkpoints cost: `make test-slow`; the figures are in docs/reliability.md."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from clbinn.experiments import checkpoint
from clbinn.experiments.grid import run_grid
from clbinn.experiments.run import _Run, run
from clbinn.report import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_memory_stays_flat_over_a_thousand_tasks(kit, tmp_path, monkeypatch):
    """What is learned grows by nothing, what is measured by three numbers for each entry of the matrix."""
    tasks, used = 1000, []
    evaluate = _Run._evaluate

    def measured(self, after_task):
        evaluate(self, after_task)
        used.append(resident_megabytes())

    monkeypatch.setattr(_Run, "_evaluate", measured)
    started = time.monotonic()
    strategy = kit.strategy("bayesbinn", "train.epochs=1", "options.mc_samples=0")
    path = run(kit.stream(tasks), strategy, 0, tmp_path, progress=False)
    seconds = time.monotonic() - started
    matrix = np.loadtxt(path / "accuracy_matrix.csv", delimiter=",", skiprows=1)
    assert matrix.shape == (tasks + 1, tasks + 1)
    growth = used[-1] - used[tasks // 10]
    print(f"{tasks} tasks in {seconds:.0f} s, {used[-1]:.0f} MB, {growth:.0f} MB more than after a tenth of them")
    assert growth < 100
    page = build(tmp_path)
    assert page.stat().st_size < 6_000_000


def test_five_hundred_runs(kit, tmp_path):
    started = time.monotonic()
    results = run_grid(kit.stream(), [kit.strategy("bayesbinn")], range(500), out=tmp_path, jobs=2, progress=False)
    assert {r.status for r in results} == {"done"}
    done = time.monotonic()
    results = run_grid(kit.stream(), [kit.strategy("bayesbinn")], range(500), out=tmp_path, jobs=2, progress=False)
    assert {r.status for r in results} == {"skipped"}
    skipped = time.monotonic()
    page = build(tmp_path)
    drawn = time.monotonic()
    print(f"500 runs in {done - started:.0f} s, skipped in {skipped - done:.1f} s, report in {drawn - skipped:.1f} s")
    assert skipped - done < 60
    assert drawn - skipped < 120
    assert page.stat().st_size < 6_000_000


def test_checkpoints_take_two_percent_of_a_run(kit, tmp_path, monkeypatch):
    spent = []
    save = checkpoint.save

    def measured(*args, **options):
        started = time.monotonic()
        save(*args, **options)
        spent.append(time.monotonic() - started)

    monkeypatch.setattr(checkpoint, "save", measured)
    strategy = kit.strategy("bayesbinn", "train.epochs=200", "model.hidden=[100, 100]")
    started = time.monotonic()
    run(kit.stream(), strategy, 0, tmp_path, progress=False)
    seconds = time.monotonic() - started
    print(f"{len(spent)} checkpoints took {sum(spent):.2f} s of {seconds:.1f} s: {sum(spent) / seconds:.1%}")
    assert len(spent) > 2
    assert sum(spent[:-1]) < 0.03 * seconds  # the last one is the result
