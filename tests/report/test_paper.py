import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clbinn.recipes import catalogue_folder
from clbinn.report import paper


@pytest.fixture
def run(make_run) -> Callable[..., Path]:
    """Write a run of a single data set below `tmp_path`."""
    return partial(make_run, benchmark="mnist", title="MNIST", matrix=np.array([[0.1], [0.9]]))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., str]:
    """The page of runs below `tmp_path`, and its text."""

    def page(paths: list[Path], table: str = "table10/mnist", prefix: str | None = None) -> str:
        targets = catalogue_folder("benchmarks") / "targets.csv"
        return paper.build(table, "All methods", tmp_path, paths, targets, prefix, [])

    return page


def test_the_page_names_the_files_that_lie_beside_it(tmp_path, run, build):
    build([run()])
    footer = (tmp_path / "table10-mnist.html").read_text().partition("<footer>")[2]
    assert "table10-mnist.md" in footer
    assert "report.md" not in footer
    assert (tmp_path / "table10-mnist.md").is_file()


def test_a_row_without_a_setting_has_a_dash_and_the_mode_stands_before_the_mean(run, build):
    paths = [
        run("bayesbinn", digest="aaaaaaaa", mc_samples=10),
        run("bayesbinn", digest="bbbbbbbb", mc_samples=0),
        run("ste", options={"temperature": None, "lr": 0.1}, mc_samples=0),
    ]
    text = build(paths)
    assert "None" not in text
    rows = [line.split()[:4] for line in text.splitlines() if line.startswith(("bayesbinn", "ste"))]
    assert rows == [["bayesbinn", "0.001", "0.01", "0"], ["bayesbinn", "0.001", "0.01", "10"], ["ste", "0.1", "–", "0"]]


def test_the_settings_of_all_methods_stand_below(tmp_path, run, build):
    options = {"lr": 1e-10, "temperature": 1e-10}
    paths = [
        run("bayesbinn", digest="aaaaaaaa", mc_samples=10, options=options),
        run("bayesbinn", digest="bbbbbbbb", mc_samples=0, options=options),
    ]
    build(paths)
    assert "Settings" not in (tmp_path / "table10-mnist.html").read_text()  # one method
    build([*paths, run("bop", options={"threshold": 1e-8}, mc_samples=0)])
    text = (tmp_path / "table10-mnist.md").read_text()
    rows = [line for line in text.partition("### Settings")[2].splitlines() if line.startswith("| b")]
    assert len(rows) == 2
    assert "temperature 1e-10, lr 1e-10" in rows[0]
    assert "threshold 1e-08" in rows[1]
    assert "<h3>Settings</h3>" in (tmp_path / "table10-mnist.html").read_text()


@pytest.mark.parametrize(
    ("inputs", "told", "other"),
    [(2, "Probability of class 1", "standard deviations"), (1, "standard deviations", "class 1")],
)
def test_a_synthetic_problem_is_explained_by_its_own_caption(inputs, told, other, tmp_path, run, build):
    path = run(mc_samples=10)
    axis = np.linspace(-3, 3, 5)
    grid = np.stack(np.meshgrid(*[axis] * inputs), -1).reshape(-1, inputs)
    outputs = np.random.default_rng(0).random((3, len(grid)))
    train = {"train_x": np.zeros((4, inputs)), "train_y": np.array([0.0, 1.0, 0.0, 1.0])}
    np.savez(path / "prediction.npz", grid=grid, outputs=outputs, **train)
    build([path], table="table3")
    page = (tmp_path / "table3.md").read_text()
    assert told in page
    assert other not in page
    assert (tmp_path / "table3-mnist-predictions.png").stat().st_size > 1000


@pytest.mark.parametrize(("prefix", "said"), [(None, False), ("table3/", True)])
def test_no_printed_number_is_not_the_same_as_not_compared(prefix, said, tmp_path, run, build):
    text = build([run()], table="table3", prefix=prefix)
    pages = [(tmp_path / f"table3.{ending}").read_text() for ending in ("html", "md")]
    assert ["No printed number" in told for told in (text, *pages)] == [said] * 3


def test_the_curves_of_a_single_epoch_stand_at_epoch_1(tmp_path, run, build):
    build([run(events=[{"event": "epoch", "epoch": 1, "train_accuracy": 0.92, "validation_accuracy": 0.95}])])
    # Matplotlib writes each text of a figure as a comment beside its outlines
    texts = re.findall("<!-- (.*) -->", (tmp_path / "table10-mnist-mnist-curves.svg").read_text())
    assert "accuracy, %" in texts
    assert [text for text in texts[: texts.index("epoch")] if text != "−"] == ["1"]


def test_curves_of_many_epochs_are_lines_without_marks(run, build):
    """A warning of matplotlib would be an error here."""
    accuracies = {"train_accuracy": 0.92, "validation_accuracy": 0.95}
    build([run(events=[{"event": "epoch", "epoch": epoch, **accuracies} for epoch in range(1, 25)])])
