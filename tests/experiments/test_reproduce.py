import json

import numpy as np
import pytest
import torch

from clbinn.errors import RunError, UserError
from clbinn.experiments import synthetic
from clbinn.experiments.paper import load_paper, papers
from clbinn.experiments.reproduce import TITLES, overview, reproduce
from clbinn.experiments.store import RunFolder, run_path
from clbinn.experiments.weight_histogram import WeightHistogram
from clbinn.nn import MLP
from clbinn.optim import BayesBiNN
from clbinn.recipes import catalogue_folder
from clbinn.report.paper import build

QUICK = ["train.epochs=1", "train.batch_size=100", "benchmark.source={dataset: digits, train_size: 500}"]


def quiet(text):
    """No progress."""


def test_the_overview_names_every_table():
    assert all(table in overview() for table in TITLES)
    assert {table for name in papers() for table in load_paper(papers()[name]).tables} | {"table13"} == set(TITLES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("table99", "no table 'table99'.*table9"),
        ("table10/mnits", "did you mean 'mnist'"),
        ("table10/mnist/stee", "did you mean 'ste'"),
        ("table13/mnist", "table13 has no 'mnist'"),
    ],
)
def test_an_unknown_part_is_named_with_the_nearest(table, message, tmp_path):
    with pytest.raises(UserError, match=message):
        reproduce(table, out=tmp_path, report=quiet)


@pytest.mark.parametrize(
    ("table", "own", "figure"),
    [
        ("table3/", ["train.epochs=20"], "table3-two_moons-predictions.png"),
        ("table4", ["train.epochs=20"], "table4-snelson-predictions.png"),
        ("table6", [*QUICK, "model.hidden=[8]"], "table6-mnist-sweep.png"),
        ("table7", [*QUICK, "model.hidden=[8]"], "table7-mnist-sweep.png"),
        ("table9/mnist", [*QUICK, "model.hidden=[8]"], "table9-mnist-mnist-curves.png"),
        ("table10/mnist", [*QUICK, "model.hidden=[8]"], "table10-mnist-mnist-curves.png"),
        ("table11/mnist", [*QUICK, "pretraining={epochs: 1}"], "table11-mnist-mnist-curves.png"),
    ],
)
def test_every_table_ends_in_a_page_and_a_figure(table, own, figure, tmp_path):
    if table == "table11/mnist":  # pretraining is the first row's alone
        own, table = own[:-1], "table11/mnist/bayesbinn"
        figure = "table11-mnist-bayesbinn-mnist-curves.png"
    text, failed = reproduce(table, seeds=[0], overrides=own, out=tmp_path, device="cpu", report=quiet)
    assert failed == []
    if table in ("table6", "table7"):
        assert "options.lr" not in text.partition("paper")[0], "the rows are the paper's own"
        assert "options.temperature" not in text.partition("paper")[0]
    table = table.rstrip("/")
    page = tmp_path / f"{table.replace('/', '-')}.html"
    assert f"Page: {page}" in text
    assert "bayesbinn" in page.read_text()
    assert (tmp_path / figure).stat().st_size > 1000
    if table not in ("table3", "table4"):
        assert "Not compared with the paper" in text


@pytest.mark.parametrize(
    ("table", "own", "message"),
    [
        ("table10/mnist", "options.clip_latent=0.5", "clip_latent"),
        ("table11/mnist", "pretraining.epochs=1", "bayesbinn: pretraining is for networks with"),
    ],
)
def test_a_setting_that_a_later_row_does_not_take_is_told_before_the_first_is_trained(table, own, message, tmp_path):
    with pytest.raises(UserError, match=message):
        reproduce(table, seeds=[0], overrides=[*QUICK, own], out=tmp_path, device="cpu", report=quiet)
    assert not list(tmp_path.iterdir())


def test_rows_that_fail_are_told_and_the_others_are_run(tmp_path, monkeypatch):
    train = synthetic.train

    def failing(benchmark, method, seed, out, **settings):
        if method.name == "ste":
            raise RunError("not finite")
        if method.name == "bayesbinn":
            raise ZeroDivisionError("division by zero")
        return train(benchmark, method, seed, out, **settings)

    monkeypatch.setattr(synthetic, "train", failing)
    with pytest.raises(RunError, match=r"division by zero \(.*test_reproduce\.py, line"):
        reproduce("table3/two_moons/bayesbinn", seeds=[0], overrides=["train.epochs=5"], out=tmp_path, report=quiet)
    names = [method.name for method in load_paper(papers()["two_moons"]).methods]
    assert names == ["bayesbinn", "ste"]
    monkeypatch.setattr(
        synthetic,
        "train",
        lambda b, m, *rest, **settings: (
            failing(b, m, *rest, **settings) if m.name == "ste" else train(b, m, *rest, **settings)
        ),
    )
    text, failed = reproduce(
        "table3", seeds=[0], overrides=["train.epochs=5"], out=tmp_path, device="cpu", report=quiet
    )
    assert failed == ["two_moons/ste, seed 0: failed: not finite"]
    assert failed[0] in text


def test_a_sweep_whose_field_is_overridden_is_one_row(tmp_path):
    own = [*QUICK, "model.hidden=[8]", "options.lr=1e-3"]
    text, _ = reproduce("table6", seeds=[0], overrides=own, out=tmp_path, device="cpu", report=quiet)
    assert len({path.parts[-3] for path in tmp_path.rglob("summary.json")}) == 1, text


def test_table_13_runs_the_stream_and_draws_the_weights(tmp_path):
    overrides = [
        *("train.epochs=1", "model.hidden=[16]", "options.mc_samples=2"),
        *("benchmark.source={dataset: digits}", "benchmark.tasks.count=2"),
    ]
    text, _ = reproduce("table13", seeds=[0], overrides=overrides, out=tmp_path, device="cpu", report=quiet)
    assert "bayesbinn_no_prior" in text
    folders = list(tmp_path.glob("permuted_mnist/*/seed-0"))
    assert len(folders) == 3
    for folder in folders:
        counts = json.loads((folder / "weights.json").read_text())["probability_counts"]
        assert [sum(task) for task in counts] == [64 * 16 + 160] * 2
    for figure in ("table13-permuted_mnist-weights", "average_accuracy-table13", "matrices-table13"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 1000


def test_data_that_are_missing_are_a_reason_and_not_a_traceback(tmp_path, monkeypatch):
    monkeypatch.delenv("CLBINN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RunError, match="cifar10: not run: cifar10 was not found"):
        reproduce("table10/cifar10", seeds=[0], out=tmp_path, data_root=tmp_path, device="cpu", report=quiet)


@pytest.mark.parametrize(
    ("epochs", "accuracy", "outcome"),
    [(3, 0.97, "shorter run (3 of 500 epochs)"), (500, 0.98, "short by 0.86 points"), (500, 0.9886, "reproduced")],
)
def test_only_like_is_compared_with_like(epochs, accuracy, outcome, tmp_path):
    paper = load_paper(papers()["mnist"], [f"train.epochs={epochs}"])
    method = next(m for m in paper.methods if m.name == "bayesbinn")
    folder = RunFolder(run_path(tmp_path, paper.benchmark, method, 0))
    folder.write_recipe(paper.benchmark, method, 0)
    folder.start_matrix(1, np.array([[0.1], [accuracy]]))
    numbers = {"test_accuracy": accuracy, "average_accuracy": accuracy, "mc_samples": 0, "epochs": epochs}
    folder.write_json("summary.json", {"benchmark": "mnist", "strategy": "bayesbinn", "seed": 0, **numbers})
    targets = catalogue_folder("benchmarks") / "targets.csv"
    text = build("table10", "All methods", tmp_path, [folder.path], targets, "table10/mnist/bayesbinn_mode", [])
    [line] = [line for line in text.splitlines() if line.startswith("table10/mnist/bayesbinn_mode/test_accuracy")]
    assert line.endswith(outcome)


@pytest.mark.parametrize(
    ("part", "name", "rows"),
    [
        ("table10/cifar10", "cifar10", ["ste", "bop", "pmf", "bayesbinn_mode", "bayesbinn_mean", "full_precision"]),
        ("table10/mnist/adam", "mnist", ["full_precision"]),
        ("table7/mnist/bayesbinn", "mnist_temperatures", [f"temperature_1e-{k}" for k in range(3, 13)]),
    ],
)
def test_a_part_is_compared_with_its_own_rows(part, name, rows, tmp_path):
    paper = load_paper(papers()[name], ["train.epochs=3"])
    for method in paper.methods:
        for variant in method.variants:  # finished, so that nothing is trained
            folder = RunFolder(run_path(tmp_path, paper.benchmark, variant, 0))
            folder.write_recipe(paper.benchmark, variant, 0)
            folder.start_matrix(1, np.array([[0.1], [0.9]]))
            numbers = {"test_accuracy": 0.9, "average_accuracy": 0.9, "mc_samples": variant.mc_samples, "epochs": 3}
            facts = {"benchmark": paper.benchmark.name, "strategy": method.name, "seed": 0}
            folder.write_json("summary.json", facts | numbers)
    text, _ = reproduce(part, seeds=[0], overrides=["train.epochs=3"], out=tmp_path, device="cpu", report=quiet)
    lines = [line for line in text.splitlines() if "/test_accuracy" in line]
    assert [line.partition(" ")[0].split("/")[2] for line in lines] == rows
    assert all(line.endswith("shorter run (3 of 500 epochs)") for line in lines)


def test_the_histogram_counts_the_weights_by_probability():
    net = MLP(4, [3], 2)
    natural = [torch.full((3, 4), 10.0), torch.zeros(2, 3)]
    strategy = type("Strategy", (), {"optimizer": BayesBiNN(net.parameters(), num_data=1, init_natural=natural)})
    histogram = WeightHistogram(bins=4)
    histogram.after_training_exp(strategy)
    assert histogram.counts == [[0, 0, 6, 12]]
    other = WeightHistogram(bins=4)
    other.load_state_dict(histogram.state_dict())
    assert other.counts == histogram.counts
