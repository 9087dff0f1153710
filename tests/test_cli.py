import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from clbinn import recipes
from clbinn.cli import main
from clbinn.errors import RunError, UserError
from clbinn.recipes import load_benchmark, load_strategy

STREAM = "name: mine\nsource: {dataset: digits}\ntasks: {kind: permute_pixels, count: 2}\n"
METHOD = "name: method\ntarget: my_pkg.Thing\ntrain: {epochs: 1, batch_size: 2}\n"


@pytest.fixture
def clbinn(capsys):
    """Run a command in this process: exit status, standard output, standard error."""

    def clbinn(*args):
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return clbinn


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLBINN_DATA", raising=False)
    (tmp_path / "mine.yaml").write_text(STREAM)
    (tmp_path / "method.yaml").write_text(METHOD)
    return tmp_path


@dataclass
class Result:
    strategy: str
    seed: int
    path: Path
    status: str
    message: str = ""


@pytest.fixture
def grid(monkeypatch, here):
    """Stands for the experiments and the report; `outcome` holds the status of each strategy, or what is raised."""
    calls = SimpleNamespace(outcome={}, raised=None, grid=None, report=None)

    def run_grid(benchmark, strategies, seeds, **settings):
        calls.grid = (benchmark, strategies, seeds, settings)
        if calls.raised is not None:
            raise calls.raised
        results = []
        for strategy in strategies:
            for seed in seeds:
                path = settings["out"] / benchmark.name / f"{strategy.name}-00000000" / f"seed-{seed}"
                status = calls.outcome.get(strategy.name, "done")
                if status != "failed":
                    path.mkdir(parents=True)
                    rows = ["trained_task,test_task_1,test_task_2", "0,0.1,0.1", f"1,0.9{seed},0.5", "2,0.8,0.9"]
                    (path / "accuracy_matrix.csv").write_text("\n".join(rows) + "\n")
                results.append(Result(strategy.name, seed, path, status, "it broke"))
        return results

    def build(directory, targets=None):
        calls.report = (directory, targets)
        return directory / "report.html"

    monkeypatch.setitem(sys.modules, "clbinn.experiments.grid", SimpleNamespace(run_grid=run_grid))
    monkeypatch.setattr("clbinn.report.build", build)
    return calls


# Run


def test_run_hands_everything_over(clbinn, grid, here):
    status, out, err = clbinn(
        "run", "permuted_digits", "-s", "bayesbinn", "-s", "bayesbinn_no_prior", "--seeds", "0..2,7", "--jobs", 2,
        "--set", "train.epochs=3", "--set", "benchmark.tasks.count=4", "--out", here / "o", "--device", "cpu",
        "--data-root", here, "--no-download", "--engine", "ray", "--ray-address", "auto", "--gpus-per-run", "0.5",
    )  # fmt: skip
    assert (status, err) == (0, "")
    benchmark, strategies, seeds, settings = grid.grid
    assert benchmark == load_benchmark("permuted_digits", ["tasks.count=4"])
    assert strategies == [load_strategy(name, ["train.epochs=3"]) for name in ("bayesbinn", "bayesbinn_no_prior")]
    assert seeds == [0, 1, 2, 7]
    assert settings == {
        "out": here / "o",
        "jobs": 2,
        "engine": "ray",
        "ray_address": "auto",
        "gpus_per_run": 0.5,
        "device": "cpu",
        "data_root": here,
        "download": False,
        "progress": True,
    }
    assert f"Report: {here}/o/permuted_digits/report.html" in out
    assert grid.report == (here / "o" / "permuted_digits", None)


def test_run_needs_no_more_than_a_stream(clbinn, grid):
    assert clbinn("run", "permuted_digits")[0] == 0
    _, strategies, seeds, settings = grid.grid
    assert [strategy.name for strategy in strategies] == ["bayesbinn"]
    assert seeds == [0]
    assert settings["download"] is None
    assert settings["data_root"] is None


def test_run_ends_with_the_mean_matrices(clbinn, grid):
    _, out, _ = clbinn("run", "mine.yaml", "-s", "bayesbinn", "-s", "naive", "--seeds", "0,4")
    assert "bayesbinn-00000000: accuracy in %, mean of 2 seeds" in out
    assert "naive-00000000: accuracy in %, mean of 2 seeds" in out
    rows = [line.split() for line in out.splitlines() if re.match(r" +(untrained|1|2) ", line)]
    assert rows[:3] == [["untrained", "10.0", "10.0"], ["1", "92.0", "50.0", "92.00"], ["2", "80.0", "90.0", "85.00"]]


def test_a_failed_run_is_status_1_and_the_others_are_reported(clbinn, grid):
    grid.outcome["naive"] = "failed"
    status, out, err = clbinn("run", "mine.yaml", "-s", "bayesbinn", "-s", "naive", "--seeds", "0,1")
    assert status == 1
    assert "bayesbinn-00000000" in out
    assert "2 of 4 runs failed; the same command tries them again" in err
    assert "naive, seed 1: it broke" in err


class Interrupted(KeyboardInterrupt):
    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "clbinn: interrupted"),
        (Interrupted("saved; go on with the same command", 143), 143, "clbinn: saved; go on with the same command"),
        (UserError("no such data"), 2, "clbinn: error: no such data"),
        (RunError("disk full"), 1, "clbinn: error: disk full"),
    ],
)
def test_exit_status(clbinn, grid, raised, status, message):
    grid.raised = raised
    code, _, err = clbinn("run", "mine.yaml")
    assert code == status
    assert err.strip() == message


def test_code_of_strangers_is_named_before_it_runs(clbinn, grid, here):
    (here / "theirs.yaml").write_text("name: theirs\ntasks:\n  - {dataset: 'their.data:make'}\n")
    _, _, err = clbinn("run", "theirs.yaml", "-s", "method.yaml", "-s", "bayesbinn")
    assert err.splitlines() == ["clbinn: theirs.yaml runs their.data:make", "clbinn: method.yaml runs my_pkg.Thing"]


def test_faults_of_all_recipes_come_together(clbinn, grid, here):
    (here / "mine.yaml").write_text(STREAM.replace("count: 2", "count: no"))
    (here / "method.yaml").write_text(METHOD + "optons: {}\n")
    status, out, err = clbinn("run", "mine.yaml", "-s", "method.yaml", "-s", "bayesbin")
    assert (status, out) == (2, "")
    assert err.splitlines()[0] == "clbinn: error:"
    assert err.splitlines()[1:3] == [
        "  mine.yaml:3:38: tasks.count: expected a whole number, not 'no'",
        "  method.yaml:4:1: optons: unknown key; did you mean 'options'?",
    ]
    assert "did you mean 'bayesbinn'?" in err.splitlines()[3]
    assert grid.grid is None


def test_run_folder_recipe_runs_again(clbinn, grid, here):
    parts = {"benchmark": recipes.dump(load_benchmark("mine.yaml")), "strategy": recipes.dump(load_strategy("naive"))}
    text = "".join(f"{key}:\n" + "".join(f"  {line}\n" for line in part.splitlines()) for key, part in parts.items())
    (here / "recipe.yaml").write_text(text + "seed: 3\n")
    assert clbinn("run", "recipe.yaml", "-s", "recipe.yaml", "--seeds", 3)[0] == 0
    assert grid.grid[:2] == (load_benchmark("mine.yaml"), [load_strategy("naive")])


# Wrong arguments


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["rum"], "No such command 'rum'.*'run'"),
        (["run"], "Missing argument 'BENCHMARK'"),
        (["run", "mine.yaml", "--seeds", "4..0"], "'4..0': a range goes upwards"),
        (["run", "mine.yaml", "--seeds", "0..99999"], "at most 10000 seeds"),
        (["run", "mine.yaml", "--seeds", "-1"], "'-1': write 0..4 for a range, or 0,2,5"),
        (["run", "mine.yaml", "--seeds", "1,,2"], "write 0..4 for a range"),
        (["run", "mine.yaml", "--seeds", "1.5"], "write 0..4 for a range"),
        (["run", "mine.yaml", "--seeds", "1.."], "write 0..4 for a range"),
        (["run", "mine.yaml", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["run", "mine.yaml", "--jobs", "two"], "Invalid value for '--jobs'"),
        (["run", "mine.yaml", "--engine", "dask"], "'dask' is not one of 'local', 'ray'"),
        (["run", "mine.yaml", "--device", "gpu"], "'gpu': expected auto, cpu, cuda, cuda:NUMBER or mps"),
        (["run", "mine.yaml", "--out", "mine.yaml"], "Invalid value for '--out'"),
        (["run", "mine.yaml", "--job", "2", "extra"], "No such option|unexpected extra argument"),
        (["run", "mine.yaml", "--set", "train.epochs"], "--set train.epochs: write KEY=VALUE"),
        (["run", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["show", "bayesbin"], "did you mean 'bayesbinn'"),
        (["report", "nowhere"], "nowhere: there is no such folder"),
        (["tune", "mine.yaml"], "Missing option '--space'"),
    ],
)
def test_mistake_gives_one_message_and_status_2(clbinn, here, args, message):
    status, out, err = clbinn(*args)
    assert (status, out) == (2, "")
    assert err.startswith("clbinn: error: ")
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


# The other commands


def test_list_names_every_recipe_with_its_title(clbinn):
    status, out, _ = clbinn("list")
    assert status == 0
    for kind in ("benchmarks", "strategies"):
        for name in recipes.catalogue(kind):
            assert re.search(rf"^  {name} +\S", out, re.MULTILINE)


def test_show_prints_what_loads_back(clbinn, here):
    _, out, _ = clbinn("show", "bayesbinn_no_prior", "--set", "train.epochs=3")
    (here / "shown.yaml").write_text(out)
    assert load_strategy("shown.yaml") == load_strategy("bayesbinn_no_prior", ["train.epochs=3"])
    _, out, _ = clbinn("show", "mine.yaml", "--set", "benchmark.tasks.count=9")
    (here / "shown.yaml").write_text(out)
    assert load_benchmark("shown.yaml").tasks.count == 9


def test_report_with_and_without_targets(clbinn, grid, here):
    (here / "runs").mkdir()
    assert clbinn("report")[:2] == (0, "runs/report.html\n")
    assert grid.report == (Path("runs"), None)
    assert clbinn("report", "--targets", here)[0] == 0
    assert grid.report == (here, recipes.catalogue_folder("benchmarks") / "targets.csv")


def test_data_says_what_is_there_and_how_to_get_the_rest(clbinn, monkeypatch, here):
    rows = [
        SimpleNamespace(name="digits", checked="ok", path=Path("/s/digits"), how=""),
        SimpleNamespace(name="mnist", checked="missing", path=None, how="Put it\nthere."),
    ]
    asked = []
    status_of = SimpleNamespace(status=lambda root: asked.append(root) or rows)
    monkeypatch.setitem(sys.modules, "clbinn.benchmarks.data", status_of)
    monkeypatch.setenv("CLBINN_DATA", str(here))
    status, out, _ = clbinn("data")
    assert status == 0
    assert out == "  digits  ok       /s/digits\n  mnist   missing\n\nmnist\n  Put it\n  there.\n"
    assert asked == [here]


def test_export_writes_the_network(clbinn, monkeypatch, here):
    asked = []
    module = SimpleNamespace(export=lambda run, file: asked.append((run, file)) or "written")
    monkeypatch.setitem(sys.modules, "clbinn.experiments.export", module)
    assert clbinn("export", "run", "net.npz")[:2] == (0, "written\n")
    assert asked == [(Path("run"), Path("net.npz"))]


def test_tune_prints_the_winner(clbinn, monkeypatch, here):
    (here / "space.yaml").write_text("options.lr: {log: [1e-4, 1e-2]}\n")
    calls = []

    def tune(benchmark, strategy, space, **settings):
        calls.append((benchmark, strategy, space, settings))
        return Path("best.yaml")

    monkeypatch.setitem(sys.modules, "clbinn.experiments.tune", SimpleNamespace(tune=tune))
    status, out, _ = clbinn("tune", "permuted_digits", "-s", "naive", "--space", "space.yaml", "--trials", 3)
    assert (status, out) == (0, "Winning recipe: best.yaml\n")
    [(benchmark, strategy, space, settings)] = calls
    assert (benchmark.name, strategy.name, space) == ("permuted_digits", "naive", Path("space.yaml"))
    assert settings == {
        "trials": 3,
        "seed": 0,
        "out": Path("runs"),
        "device": "auto",
        "data_root": None,
        "download": None,
    }


def test_a_real_run_and_the_same_command_again(tmp_path):
    command = [
        sys.executable, "-m", "clbinn", "run", "permuted_digits", "--out", tmp_path / "runs", "--seeds", "1",
        "--set", "train.epochs=1", "--set", "benchmark.tasks.count=2", "--set", "options.mc_samples=2",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    [run] = (tmp_path / "runs" / "permuted_digits").glob("bayesbinn-*/seed-1")
    assert f"{run.parent.name}: accuracy in %, 1 seed" in first.stdout
    assert (tmp_path / "runs" / "permuted_digits" / "report.html").exists()
    written = (run / "summary.json").stat().st_mtime_ns
    assert load_strategy(run / "recipe.yaml").options["mc_samples"] == 2

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert (run / "summary.json").stat().st_mtime_ns == written


# Start


def test_help_and_its_imports():
    code = """
import sys
from clbinn.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert not left.code
heavy = {"torch", "avalanche", "numpy", "pydantic", "yaml", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    for args in (["--help"], ["run", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_recipes_import_neither_torch_nor_avalanche():
    code = """
import sys
from clbinn import recipes, cli
recipes.load_benchmark("permuted_mnist"), recipes.load_strategy("bayesbinn")
assert not {"torch", "avalanche", "numpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "clbinn", "show", "nope"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("clbinn: error: unknown recipe 'nope'")


def test_reader_that_leaves_early():
    command = f"{sys.executable} -m clbinn list | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["Streams (BENCHMARK)", "0"]


def test_a_run_outlives_those_who_look_on(tmp_path):
    tiny = (
        "--set benchmark.tasks.count=2 --set benchmark.source.train_size=50 --set train.epochs=1 --set model.hidden=[4]"
    )
    command = (
        f"{sys.executable} -m clbinn run permuted_digits -s naive {tiny} --device cpu --out {tmp_path} 2>&1 | head -0; "
        "echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert len(list(tmp_path.glob("permuted_digits/naive-*/seed-0/summary.json"))) == 1
    assert (tmp_path / "permuted_digits" / "report.html").exists()


def test_letters_that_the_terminal_lacks():
    done = subprocess.run(
        [sys.executable, "-m", "clbinn", "list"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert b"?0 = 0" in done.stdout  # λ0


def test_closed_streams():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m clbinn show naive >&- 2>&-"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_without_arguments_the_help_is_shown(clbinn):
    status, out, err = clbinn()
    assert (status, err) == (0, "")
    assert "Usage: clbinn" in out


def test_out_that_cannot_be_made(clbinn, here):
    (here / "file").write_text("")
    status, _, err = clbinn("run", "mine.yaml", "-s", "naive", "--out", "file/runs")
    assert status != 0
    assert "choose another --out" in err
    assert "Traceback" not in err
