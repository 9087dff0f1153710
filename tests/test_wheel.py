"""What ships works: the wheel, installed beside nothing of the checkout, run from an empty folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for name in ("clbinn", "strategies", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, capture_output=True)
    return folder / "site"


def run(site, empty, *arguments):
    """A command of the wheel; pytest's own path to the checkout is left out."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_recipes_types_and_licence_are_in_it(site):
    assert (site / "clbinn" / "py.typed").exists()
    for kind in ("strategies", "benchmarks"):
        shipped = {p.name for p in (ROOT / kind).glob("*.yaml")}
        assert {p.name for p in (site / "clbinn" / "recipes_data" / kind).glob("*.yaml")} == shipped
    assert {p.name for p in (site / "clbinn" / "recipes_data" / "benchmarks" / "paper").glob("*.yaml")}
    assert list(site.glob("clbinn-*.dist-info/licenses/LICENSE"))
    assert sorted(p.name for p in site.iterdir() if p.suffix != ".dist-info") in (["clbinn"], ["bin", "clbinn"])


def test_it_runs_a_stream_from_an_empty_folder(site, tmp_path):
    where = run(site, tmp_path, "-c", "import clbinn; print(clbinn.__file__, clbinn.__version__)")
    assert where.startswith(str(site))
    assert "unknown" not in where
    assert "permuted_mnist" in run(site, tmp_path, "-m", "clbinn", "list")
    small = ["--set", "train.epochs=1", "--set", "benchmark.tasks.count=2", "--set", "options.mc_samples=2"]
    text = run(site, tmp_path, "-m", "clbinn", "run", "permuted_digits", "-s", "bayesbinn", *small)
    assert "mean of seen" in text
    assert (tmp_path / "runs" / "permuted_digits" / "report.html").exists()
