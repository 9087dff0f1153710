import json

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from clbinn.errors import DataError, RecipeError, RunError
from clbinn.experiments import synthetic
from clbinn.experiments.paper import load_paper, papers
from clbinn.experiments.supervised_build import Learner
from clbinn.experiments.synthetic_data import snelson, snelson_substitute, two_moons
from clbinn.nn import synthetic as networks
from clbinn.optim import BayesBiNN


def run(name, out, *overrides, method="bayesbinn", data_root=None):
    paper = load_paper(papers()[name], overrides)
    one = next(m for m in paper.methods if m.name == method)
    return synthetic.train(
        paper.benchmark, one, 0, out, data_root=data_root, device="cpu", protocol=["train.epochs 150 of 5000"]
    )


def summary(path):
    return json.loads((path / "summary.json").read_text())


def test_networks_are_those_of_b1():
    moons, regression = networks.two_moons(), networks.snelson()
    assert sum(p.numel() for p in moons.parameters()) == 2 * 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert sum(p.numel() for p in regression.parameters()) == 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert [type(m).__name__ for m in moons.layers] == ["Flatten", "Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert moons(torch.zeros(3, 2)).shape == regression(torch.randn(3, 1)).shape == (3, 1)


def test_moons_are_scikit_learns_standardised():
    points = two_moons()
    x, y = make_moons(200, noise=0.1, random_state=0)
    np.testing.assert_allclose(points.train_x, (x - x.mean(0)) / x.std(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(points.train_y, y)
    assert len(points.test_x) == 50


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "data" / "snelson"
    folder.mkdir(parents=True)
    x, y = snelson_substitute(100)
    for name, values in (("train_inputs", x), ("train_outputs", y)):
        (folder / name).write_text("".join(f" {value:.7e}\n" for value in values))
    return folder


def test_snelson_comes_by_root_by_path_or_by_url_else_as_a_named_substitute(files, tmp_path, monkeypatch):
    monkeypatch.delenv("CLBINN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    by_root = snelson(data_root=files.parent)
    by_path = snelson(path=str(files))
    by_url = snelson(path=files.as_uri())
    assert by_root.name == by_path.name == by_url.name == "Snelson's data"
    assert torch.equal(by_root.train_x, by_path.train_x)
    assert torch.equal(by_root.train_y, by_url.train_y)
    assert len(by_root.train_x) == 100
    np.testing.assert_allclose([by_root.train_y.mean(), by_root.train_y.std()], [0, 1], atol=1e-5)
    substitute = snelson(data_root=tmp_path)
    assert "substitute" in substitute.name
    assert len(substitute.train_x) == 200


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train_inputs", "1\nx\n", "not a file of numbers"),
        ("train_inputs", "1\nnan\n", "not finite"),
        ("train_outputs", "1\n2\n", "100 inputs and 2 outputs"),
        ("train_outputs", None, "not a file of numbers"),
    ],
)
def test_bad_files_give_one_message(files, name, text, message):
    (files / name).unlink() if text is None else (files / name).write_text(text)
    with pytest.raises(DataError, match=message):
        snelson(path=str(files))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (two_moons, {"noise": -1.0}),
        (two_moons, {"noise": float("inf")}),
        (two_moons, {"test_points": 0}),
        (snelson, {"held_out": 0}),
        (snelson, {"held_out": -5}),
        (snelson, {"held_out": 199}),
    ],
)
def test_options_out_of_range_are_refused(make, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=next(iter(options))):
        make(**options)


def test_two_moons_ends_in_numbers_and_a_grid(tmp_path):
    mode, mean = run("two_moons", tmp_path, "train.epochs=150", "options.lr=0.01")
    for path, samples in ((mode, 1), (mean, 10)):
        found = summary(path)
        assert found["test_accuracy"] > 0.7
        assert found["protocol"] == ["train.epochs 150 of 5000"]
        with np.load(path / "prediction.npz") as file:
            assert file["outputs"].shape == (samples, synthetic.GRID_POINTS**2)
            assert file["outputs"].min() >= 0
            assert file["outputs"].max() <= 1


def test_regression_ends_in_errors_on_points_that_were_held_out(tmp_path, files):
    paths = run("snelson", tmp_path, "train.epochs=100", method="ste", data_root=files.parent)
    found = summary(paths[0])
    assert found["data"] == "Snelson's data"
    assert 0 < found["train_mse"] < 1
    assert found["test_mse"] != found["train_mse"]
    assert "average_accuracy" not in found
    mtime = (paths[0] / "summary.json").stat().st_mtime_ns
    run("snelson", tmp_path, "train.epochs=100", method="ste", data_root=files.parent)
    assert (paths[0] / "summary.json").stat().st_mtime_ns == mtime


def test_numbers_that_blow_up_name_the_run_folder(tmp_path):
    with pytest.raises(RunError, match=rf"^{tmp_path}/two_moons/bayesbinn-\w+/seed-0: the loss is not finite in epoch"):
        run("two_moons", tmp_path, "train.epochs=30", "options.lr=1e30")


def test_data_that_are_no_function_are_named(tmp_path):
    with pytest.raises(RecipeError, match=r"two_moons: source\.dataset: .*package\.module:name"):
        run("two_moons", tmp_path, "benchmark.source.dataset=digits", "train.epochs=1")


def test_outputs_are_normalised_by_the_training_inputs_of_the_same_weights():
    torch.manual_seed(0)
    network = networks.snelson()
    optimizer = BayesBiNN(network.parameters(), num_data=10, init_natural=0.0, seed=0)
    x, grid = torch.randn(30, 1), torch.linspace(-1, 1, 7)[:, None]
    ours = synthetic.outputs(Learner(network, optimizer), x, grid, mc_samples=3, seed=5)
    assert ours.shape == (3, 7)
    from clbinn.optim._noise import Noise

    noise = Noise(5)
    for row in ours:
        with optimizer.weights(optimizer.sample_weights(noise)), torch.no_grad():
            raw, reference = network[0](grid)[:, 0], network[0](x)[:, 0]
        expected = (raw - reference.mean()) / (reference.var() + 1e-4).sqrt()
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
