"""The timing scripts run and print what they should; no test looks at a time."""

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"
LINE = re.compile(r"(?P<name>\S.*?) +[-\d.,]+ (?P<unit>ms|s|%|×|MB) +\([-\d.,]+ to [-\d.,]+\)(, -?\d+ % of the limit)?")

# What stands for the authors' repository: the names and calls that the scripts use, nothing of theirs.
MODELS = """
from torch import nn

def MLP_CL_h100(in_features, out_features, num_units, eps, momentum, batch_affine):
    hidden = nn.Linear(in_features, num_units)
    return nn.Sequential(hidden, nn.BatchNorm1d(num_units), nn.Linear(num_units, out_features))
"""
OPTIMIZERS = """
import torch

class BayesBiNN(torch.optim.SGD):
    def __init__(self, model, train_set_size, lr, betas, num_samples, lamda_init, lamda_std, temperature, reweight):
        super().__init__(model.parameters(), lr=lr)
        self.state["lamda"] = torch.zeros(3)

    def step(self, closure):
        loss, outputs = closure()
        loss.backward()
        super().step()
        return loss.detach(), [outputs]

    def get_mc_predictions(self, forward_function, inputs, raw_noises):
        return [forward_function(inputs) for noise in raw_noises]
"""


def script(name, *arguments):
    command = [sys.executable, SPEED / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, cwd=SPEED.parents[1], capture_output=True, text=True, check=False)


def quick(name, folder, *arguments):
    """The content of a script's JSON file, with its text checked against it."""
    file = folder / f"{name}.json"
    done = script(name, "--quick", "--json", file, *arguments)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert [(m["name"], m["unit"]) for m in found] == [(n["name"], n["unit"]) for n in content["numbers"]]
    assert [m[3] is not None for m in found] == [n["share_of_limit"] is not None for n in content["numbers"]]
    assert content["figure"] == name
    assert content["notes"][0].startswith("quick")
    for number in content["numbers"]:
        assert number["p10"] <= number["median"] <= number["p90"]
        assert number["unit"] == "%" or number["median"] > 0
    return content


@pytest.fixture
def checkout(tmp_path):
    for module, text in (("models", MODELS), ("optimizers", OPTIMIZERS)):
        (tmp_path / "checkout" / module).mkdir(parents=True)
        (tmp_path / "checkout" / module / "__init__.py").write_text(text)
    return tmp_path / "checkout"


def test_step(tmp_path, checkout):
    content = quick("step", tmp_path, "--rounds", 3, "--baseline", checkout)
    names = [number["name"] for number in content["numbers"]]
    assert "step through the strategy, data included" in names
    assert "overhead of the strategy over the bare loop" in names
    assert "the authors' step, data included" in names
    assert {number["rounds"] for number in content["numbers"]} == {3}
    assert "made-up" in content["notes"][1]


@pytest.mark.parametrize(
    ("name", "count", "shares"),
    [("epoch", 6, 3), ("networks", 22, 10), pytest.param("grid", 3, 1, marks=pytest.mark.slow)],
)
def test_each_figure(name, count, shares, tmp_path):
    numbers = quick(name, tmp_path)["numbers"]
    assert len(numbers) == count
    assert sum(number["share_of_limit"] is not None for number in numbers) == shares


def test_predict_beside_a_checkout(tmp_path, checkout):
    numbers = {n["name"]: n for n in quick("predict", tmp_path, "--baseline", checkout)["numbers"]}
    assert "the authors' time over ours" in numbers
    assert numbers["peak memory from bytes, above data and network"]["unit"] == "MB"


def test_results_hold_what_worked_and_failures_are_named(tmp_path):
    done = script("run_all", "start", "predict", "--quick", "--baseline", tmp_path, "--out", tmp_path / "results")
    assert done.returncode == 1
    assert done.stderr.endswith("failed: predict\n")
    content = json.loads((tmp_path / "results" / "speed.json").read_text(encoding="utf-8"))
    assert [figure["figure"] for figure in content["figures"]] == ["start"]
    assert content["environment"]["threads"] == 1
    page = (tmp_path / "results" / "speed.md").read_text(encoding="utf-8")
    for number in content["figures"][0]["numbers"]:
        assert f"| start | {number['name']} |" in page


def test_a_folder_that_is_no_checkout(tmp_path):
    done = script("predict", "--quick", "--baseline", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr
    assert "team-approx-bayes/BayesBiNN" in done.stderr


def test_statistics_of_a_number(monkeypatch):
    monkeypatch.syspath_prepend(str(SPEED))
    from measure import Number, interleave

    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    found = Number("x", "s", values, limit=[1.0, 0.5, 1.0, 1.0, 1.0]).summary()
    assert found["median"] == statistics.median(values) == 3
    assert found["p10"] == pytest.approx(1.4)
    assert found["p90"] == pytest.approx(4.6)
    assert found["share_of_limit"] == pytest.approx(1 / 3)  # of 0.2, 0.5, 0.25, 0.5, 0.333

    turns = []
    contenders = {name: lambda name=name: turns.append(name) or float(len(turns)) for name in "ab"}
    assert interleave(contenders, rounds=2) == {"a": [3.0, 6.0], "b": [4.0, 5.0]}
    assert "".join(turns) == "ba" + "ab" + "ba"


@pytest.mark.parametrize("count", [2, 5])
def test_products_are_those_of_the_network(count, monkeypatch):
    """Their number of multiplications, counted by torch, is that of a forward and a backward pass."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from clbinn.nn import MLP
    from clbinn.nn.cnn import CNN

    monkeypatch.syspath_prepend(str(SPEED))
    from products import training_products

    for net, x in (
        (MLP(7, [6, 5], 3), torch.randn(count, 7)),
        (CNN((3, 4, 4), 3, ((2, 4),), (5,)), torch.randn(count, 3, 4, 4)),
    ):
        run = training_products(net, x)
        with FlopCounterMode(display=False) as alone:
            run()
        with FlopCounterMode(display=False) as whole:
            net(x).sum().backward()
        assert alone.get_total_flops() == whole.get_total_flops() > 0
