import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from clbinn.errors import RecipeError, RunError, UserError
from clbinn.experiments import checkpoint, supervised
from clbinn.experiments.interrupts import Interrupted
from clbinn.experiments.paper import load_paper, papers
from clbinn.experiments.supervised_build import build_learner
from clbinn.experiments.supervised_data import PADDING, crop_and_flip, load_experiment
from clbinn.nn.lrnet import StochasticConv2d
from clbinn.schema import BenchmarkRecipe

DIGITS = ["benchmark.source={dataset: digits}", "train.batch_size=50"]


def paper(name="mnist", *overrides):
    small = ["model.hidden=[32]"] if name == "mnist" else []
    return load_paper(papers()[name], [*DIGITS, *small, *overrides])


def method(of, name):
    return next(m for m in of.methods if m.name == name)


def cut_off(line):
    """A report that ends the run when it is told this."""

    def report(text):
        if line in text:
            raise KeyboardInterrupt

    return report


def read(path):
    return json.loads((path / "summary.json").read_text())


def events(path):
    return [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]


def numbers(value):
    return {k: v for k, v in value.items() if k not in ("seconds_train", "seconds_eval", "time", "seconds")}


def test_crop_and_flip_is_the_loop_over_images():
    x = torch.randn(20, 3, 8, 6)
    ours = crop_and_flip(x, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    top, left = torch.randint(0, 2 * PADDING + 1, (2, 20, 1), generator=generator)
    flip = torch.rand(20, 1, generator=generator) < 0.5
    padded = torch.nn.functional.pad(x, (PADDING,) * 4)
    for i in range(20):
        t, l = int(top[i]), int(left[i])  # noqa: E741
        crop = padded[i, :, t : t + 8, l : l + 6]
        assert torch.equal(ours[i], crop.flip(-1) if flip[i] else crop)
    assert 0 < int(flip.sum()) < 20


def test_the_split_is_a_partition_and_batches_depend_on_the_seed():
    data = load_experiment(paper().benchmark, 0.1, seed=3)
    total = len(data.train) + len(data.validation)
    assert len(data.validation) == round(0.1 * total)
    images = torch.cat([part.batch(torch.arange(len(part)))[0].flatten(1) for part in (data.train, data.validation)])
    whole = load_experiment(paper().benchmark, 0.0, seed=3)
    assert whole.validation is None
    everything = whole.train.batch(torch.arange(total))[0].flatten(1)
    assert torch.equal(images.sum(1).sort().values, everything.sum(1).sort().values)
    first, again, other = (
        torch.cat([y for _, y in data.batches(50, seed, "cpu", augment=False)]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == len(data.train) // 50 * 50  # what is left over is dropped


def test_bad_splits_are_refused():
    recipe = BenchmarkRecipe.model_validate(
        {"name": "x", "source": {"dataset": "digits", "train_size": 20}, "tasks": paper().benchmark.tasks.model_dump()}
    )
    with pytest.raises(UserError, match="empty"):
        load_experiment(recipe, 0.01, seed=0)


@pytest.mark.parametrize("name", ["ste", "bop", "pmf", "bayesbinn", "adam"])
def test_the_best_validation_epoch_gives_the_test_number(name, tmp_path):
    of = paper("mnist", "train.epochs=4")
    paths = supervised.train(
        of.benchmark, method(of, name), 0, tmp_path, device="cpu", protocol=["train.epochs 4 of 500"]
    )
    summary = read(paths[0])
    epochs = [event for event in events(paths[0]) if event["event"] == "epoch"]
    validation = [event["validation_accuracy"] for event in epochs]
    assert len(validation) == 4
    assert summary["best_epoch"] == 1 + int(np.argmax(validation))
    assert summary["validation_accuracy"] == max(validation)
    assert summary["train_accuracy"] == epochs[summary["best_epoch"] - 1]["train_accuracy"]
    assert summary["protocol"] == ["train.epochs 4 of 500"]
    assert summary["weight_bits"] == (32 if name == "adam" else 1)
    assert summary["parameters"] == 64 * 32 + 32 * 10
    matrix = (paths[0] / "accuracy_matrix.csv").read_text().splitlines()
    assert float(matrix[2].split(",")[1]) == summary["test_accuracy"]
    if name == "bayesbinn":
        assert [read(path)["mc_samples"] for path in paths] == [0, 10]


def test_a_cut_run_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "CHECKPOINT_SECONDS", 0.0)
    of = paper("mnist", "train.epochs=4")
    one = method(of, "bayesbinn")

    with pytest.raises(KeyboardInterrupt):
        supervised.train(of.benchmark, one, 5, tmp_path / "cut", device="cpu", report=cut_off("epoch 3/4"))
    resumed = supervised.train(of.benchmark, one, 5, tmp_path / "cut", device="cpu")
    whole = supervised.train(of.benchmark, one, 5, tmp_path / "whole", device="cpu")

    for ours, theirs in zip(resumed, whole, strict=True):
        assert numbers(read(ours)) == numbers(read(theirs))
        assert [numbers(e) for e in events(ours)] == [numbers(e) for e in events(theirs)]


def test_ctrl_c_saves_in_the_middle_of_an_epoch(tmp_path):
    of = paper("mnist", "train.epochs=3", "model.dropout=0.2")
    one, stopped = method(of, "bayesbinn"), []

    def stop(text):
        if "epoch 1/3" in text and not stopped:
            stopped.append(os.kill(os.getpid(), signal.SIGINT))

    with pytest.raises(Interrupted, match="stopped and saved in epoch 2, step 1; the same command goes on from there"):
        supervised.train(of.benchmark, one, 0, tmp_path / "cut", device="cpu", report=stop)
    told = []
    resumed = supervised.train(of.benchmark, one, 0, tmp_path / "cut", device="cpu", report=told.append)
    assert "going on after epoch 1, step 1 of the next" in told[0]
    whole = supervised.train(of.benchmark, one, 0, tmp_path / "whole", device="cpu")
    for ours, theirs in zip(resumed, whole, strict=True):
        assert numbers(read(ours)) == numbers(read(theirs))
        assert [numbers(e) for e in events(ours)] == [numbers(e) for e in events(theirs)]


def test_a_run_does_not_go_on_with_other_data(tmp_path, colour_images, monkeypatch):
    monkeypatch.setattr(supervised, "CHECKPOINT_SECONDS", 0.0)
    of = paper("mnist", "train.epochs=3", "train.batch_size=10", colour_images)
    one = method(of, "ste")

    with pytest.raises(KeyboardInterrupt):
        supervised.train(of.benchmark, one, 0, tmp_path / "runs", device="cpu", report=cut_off("epoch 1/3"))
    facts = (tmp_path / "runs").rglob("environment.json")
    assert "data:npz" in json.loads(next(facts).read_text())["hashes"]
    data = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", **{**data, "train_images": 255 - data["train_images"]})
    with pytest.raises(UserError, match=r"begun with other data \(data:npz changed\)"):
        supervised.train(of.benchmark, one, 0, tmp_path / "runs", device="cpu")


def test_ctrl_c_is_heeded_while_lrnets_start_is_learned(tmp_path):
    of = paper("lrnet_mnist", "train.epochs=1", "pretraining={epochs: 50}", "benchmark.source.train_size=200")
    told = []

    def stop(text):
        told.append(text)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped before its start was learned") as caught:
        supervised.train(of.benchmark, method(of, "lrnet"), 0, tmp_path, device="cpu", report=stop)
    assert caught.value.status == 143
    assert len(told) == 1


def test_variants_are_each_number_of_samples_once():
    one = method(paper("mnist"), "bayesbinn").model_copy(update={"mc_samples": 0, "also_mc_samples": [10, 0, 10, 5]})
    assert [variant.mc_samples for variant in one.variants] == [0, 10, 5]
    with pytest.raises(RecipeError, match=r"also_mc_samples\.0: must be at least 0, not -1"):
        paper("mnist", "also_mc_samples=[-1]")


def test_lost_events_are_told(tmp_path):
    of = paper("mnist", "train.epochs=1")
    told = []
    [path] = supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu")
    (path / "summary.json").unlink()
    (path / "events.jsonl").write_text("")
    supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu", report=told.append)
    assert told[0] == f"{path}: events.jsonl is shorter than the checkpoint says; the run begins again"


def test_a_checkpoint_of_another_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(supervised, "CHECKPOINT_SECONDS", 0.0)
    of = paper("mnist", "train.epochs=2")
    [path, *_] = supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu")
    (path / "summary.json").unlink()
    state = checkpoint.load(path / checkpoint.CURRENT)
    state["learner"]["optimizer"]["noise"]["cpu"] = torch.zeros(4, dtype=torch.int64)
    checkpoint.save(path, state)
    with pytest.raises(RunError, match=r"the checkpoint doesn't fit .*random stream.*move the folder away"):
        supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu")


def test_a_finished_run_is_left_alone(tmp_path):
    of = paper("mnist", "train.epochs=1")
    [path] = supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu")
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir() if file.name != ".lock"}
    assert supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu") == [path]
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir() if file.name != ".lock"} == before


def test_lrnet_starts_from_a_trained_network(tmp_path):
    of = paper("lrnet_mnist", "train.epochs=2", "pretraining={epochs: 2}")
    lines = []
    one = method(of, "lrnet")
    data = load_experiment(of.benchmark, one.validation, 0)
    learner = build_learner(one, data, 0, "cpu", lines.append)
    assert len(lines) == 2
    layer = next(m for m in learner.network.modules() if isinstance(m, StochasticConv2d))
    probabilities = torch.sigmoid(learner.optimizer.logits()[0])
    assert layer.weight.shape == probabilities.shape
    assert float(probabilities.min()) >= 0.05 - 1e-6
    assert float(probabilities.std()) > 0.1
    [path] = supervised.train(of.benchmark, one, 0, tmp_path, device="cpu")
    summary = read(path)
    assert (summary["best_epoch"], summary["mc_samples"]) == (2, 1)
    assert summary["validation_accuracy"] is None
    assert summary["test_accuracy"] > 0.3


def test_a_cut_run_of_lrnet_does_not_train_its_start_again(tmp_path):
    of = paper("lrnet_mnist", "train.epochs=2", "pretraining={epochs: 1}", "benchmark.source.train_size=200")
    one = method(of, "lrnet")

    with pytest.raises(KeyboardInterrupt):
        supervised.train(of.benchmark, one, 0, tmp_path / "cut", device="cpu", report=cut_off("epoch 1/2"))
    lines = []
    [resumed] = supervised.train(of.benchmark, one, 0, tmp_path / "cut", device="cpu", report=lines.append)
    [whole] = supervised.train(of.benchmark, one, 0, tmp_path / "whole", device="cpu")
    assert not any("real network" in line for line in lines)
    assert read(resumed)["test_accuracy"] == read(whole)["test_accuracy"]
    assert read(resumed)["nll"] == read(whole)["nll"]


@pytest.fixture
def colour_images(tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 10
    images = random.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return f"benchmark.source={{dataset: npz, path: {tmp_path / 'data.npz'}}}"


def test_cifar_code_counts_augmentation_ten_times_and_takes_a_step(colour_images):
    of = load_paper(papers()["cifar10"], [colour_images, "model.blocks=[[4], [4], [4]]", "model.hidden=[8]"])
    one = method(of, "bayesbinn")
    data = load_experiment(of.benchmark, one.validation, 0)
    learner = build_learner(one, data, 0, "cpu")
    assert learner.optimizer.param_groups[0]["num_data"] == 10 * 54
    assert learner.schedules[0][1].total == 500
    before = [p.clone() for p in learner.optimizer.natural_parameters()]
    [(x, y)] = list(data.batches(50, 0, "cpu", augment=one.augment))
    assert x.shape == (50, 3, 32, 32)
    loss, logits = learner.step(x, y)
    assert logits.shape == (50, 10)
    assert bool(loss.isfinite())
    assert all(not torch.equal(a, b) for a, b in zip(before, learner.optimizer.natural_parameters(), strict=True))


def test_numbers_that_blow_up_stop_the_run(tmp_path):
    of = paper("mnist", "train.epochs=2")
    one = method(of, "adam")
    one = one.model_copy(update={"options": {"lr": 1e30}, "model": one.model.model_copy(update={"norm": "none"})})
    with pytest.raises(RunError, match="not finite in epoch"):
        supervised.train(of.benchmark, one, 0, tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("options.learning_rate=1", "learning_rate"),
        ("options.clip_gradient=-1", "clip_gradient"),
        ("schedules=[{target: clbinn.optim.StepDecay, options: {factor: 0.0, every: 1}}]", "factor"),
        ("model.kind=nothing", "nothing"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message, tmp_path):
    of = paper("mnist", override)
    with pytest.raises(RecipeError, match=message):
        supervised.train(of.benchmark, method(of, "ste"), 0, tmp_path, device="cpu")


def test_real_cifar_images_take_the_first_steps():
    root = Path(os.environ.get("CLBINN_DATA") or Path(__file__).parents[3] / "shared/data")
    file = root / "cifar10_subset/cifar10_subset.npz"
    if not file.is_file():
        pytest.skip(f"no CIFAR-10 images at {file}")
    source = f"benchmark.source={{dataset: npz, path: {file}, train_size: 120}}"
    of = load_paper(papers()["cifar10"], [source, "model.blocks=[[4], [4], [4]]", "model.hidden=[8]"])
    for one in of.methods:
        data = load_experiment(of.benchmark, one.validation, 0)
        learner = build_learner(one, data, 0, "cpu")
        losses = [learner.step(x, y)[0] for x, y in data.batches(50, 0, "cpu", augment=one.augment)]
        assert len(losses) == 2
        assert all(bool(loss.isfinite()) for loss in losses)
