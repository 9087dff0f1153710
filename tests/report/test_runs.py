import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbinn.report.runs import find_runs, read_matrix, read_run

BOMB = "benchmark:\n  a0: &a0 [x]\n" + "".join(f"  a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 20))


def test_reads_a_finished_run(make_run, made_up):
    run = read_run(make_run("ewc", 3, digest="00ff00ff"))
    assert (run.benchmark, run.strategy, run.hash, run.seed, run.status) == (
        "permuted_mnist",
        "ewc",
        "00ff00ff",
        3,
        "finished",
    )
    np.testing.assert_allclose(run.matrix, made_up(5, 3), atol=5e-7)
    assert run.number("parameters") == 89400
    assert run.setting("options.temperature") == 0.01
    assert run.setting("benchmark.tasks.count") == 5
    assert run.setting("options.nothing") is None


def test_numbers_that_are_none_are_nan(make_run):
    run = read_run(make_run(nll=None, ece="low", brier=True, memory_bytes=10**400))
    assert np.isnan([run.number(key) for key in ("nll", "ece", "brier", "memory_bytes", "absent")]).all()


def test_finds_all_runs_from_any_level(make_run, tmp_path):
    for seed in (10, 2, 0):
        make_run("bayesbinn", seed)
    one = make_run("vcl", 0, benchmark="other")
    assert [run.seed for run in find_runs(tmp_path / "permuted_mnist")] == [0, 2, 10]
    assert len(find_runs(tmp_path)) == 4
    assert [run.strategy for run in find_runs(one)] == ["vcl"]


def test_an_unfinished_run_says_how_far_it_has_come(make_run):
    event = {"event": "epoch", "task": 2, "epoch": 17, "epochs": 100, "time": "2026-01-02T03:04:05.678+00:00"}
    run = read_run(make_run(finished=False, events=[event]))
    assert run.status == "incomplete"
    assert run.note == "task 2, epoch 17 of 100, last sign of life 2026-01-02T03:04:05"


def test_rows_that_are_not_there_yet_are_nan(make_run):
    folder = make_run(finished=False)
    file = folder / "accuracy_matrix.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:4]) + "\n" + lines[4][:9])  # rows 0 to 2, and a piece of row 3
    run = read_run(folder)
    assert run.matrix.shape == (6, 5)
    assert np.isfinite(run.matrix[:3]).all()
    assert np.isnan(run.matrix[3:]).all()
    assert run.note.startswith("2 of 5 tasks")


def test_a_failed_run_says_why(make_run):
    run = read_run(make_run(finished=False, events=[{"event": "end", "error": "the loss is nan in step 12"}]))
    assert (run.status, run.note) == ("failed", "the loss is nan in step 12")


def test_a_torn_last_event_is_passed_over(make_run):
    folder = make_run(finished=False, events=[{"event": "epoch", "task": 1, "epoch": 5}])
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert read_run(folder).note == "task 1, epoch 5"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", '{"average_accuracy": 0.9'),
        ("summary.json", "[1, 2]"),
        ("recipe.yaml", "a: [1"),
        ("recipe.yaml", "a: !!python/object/apply:os.system ['true']"),
        ("recipe.yaml", "benchmark: &a\n  name: x\n  again: *a\n"),
        ("recipe.yaml", BOMB),
        ("environment.json", "null and void"),
        ("accuracy_matrix.csv", "what,is,this\n1,2,3\n"),
        ("accuracy_matrix.csv", "trained_task,test_task_1\n0,0.1\n7,0.9\n"),
        ("accuracy_matrix.csv", "trained_task,test_task_1\n0,many\n"),
    ],
)
def test_damage_is_a_status_and_never_an_exception(make_run, name, content):
    folder = make_run()
    (folder / name).write_text(content)
    run = read_run(folder)
    assert run.status == "damaged"
    assert name in run.note
    assert (run.strategy, run.seed) == ("bayesbinn", 0)
    assert len(run.stream) < 1000


def test_keys_of_a_recipe_are_words(make_run):
    folder = make_run()
    (folder / "recipe.yaml").write_text("benchmark: {1: x, name: y}\n")
    assert read_run(folder).stream == '{"1": "x", "name": "y"}'


@given(
    name=st.sampled_from(["summary.json", "recipe.yaml", "environment.json", "events.jsonl"]),
    content=st.binary(max_size=80),
)
def test_arbitrary_bytes_never_raise(name, content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        assert read_run(Path(folder)).status in ("finished", "incomplete", "failed", "damaged")


def test_reads_a_matrix_of_a_thousand_tasks(make_run):
    matrix = np.random.default_rng(0).random((1001, 1000))
    run = read_run(make_run(matrix=matrix))
    np.testing.assert_allclose(run.matrix, matrix, atol=5e-7)


def test_an_empty_cell_is_nan(tmp_path):
    file = tmp_path / "accuracy_matrix.csv"
    file.write_text("trained_task,test_task_1,test_task_2\n0,0.1,\n1,0.9,nan\n2,0.8,0.7\n")
    np.testing.assert_array_equal(read_matrix(file), [[0.1, np.nan], [0.9, np.nan], [0.8, 0.7]])


def test_the_folder_names_a_run_without_files(tmp_path):
    folder = tmp_path / "stream" / "a-b-c-12345678" / "seed-4"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text(json.dumps({"event": "start"}) + "\n")
    run = read_run(folder)
    assert (run.benchmark, run.strategy, run.hash, run.seed) == ("stream", "a-b-c", "12345678", 4)
