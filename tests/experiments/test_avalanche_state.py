"""Avalanche's own methods go on where they were cut off, with plugins that can't tell their state themselves."""

import copy
import math

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.storage_policy import ReservoirSamplingBuffer

from clbinn.experiments import avalanche_state, watch
from clbinn.experiments.checkpoint import require_plain
from clbinn.experiments.run import run

INSIDE = "task 3, epoch 1, step 6"
PLACES = dict.fromkeys(["ewc_avalanche", "si_avalanche", "mas", "lwf", "gem", "agem", "replay"], INSIDE)
PLACES["gdumb"] = "task 2, epoch 3"  # it can't be cut inside a task


class CutOffError(Exception):
    pass


def cut_off_at(task, epoch):
    """A report that ends the run at the end of an epoch, before it is saved."""

    def report(event):
        if event["event"] == "epoch" and (event["task"], event["epoch"]) == (task, epoch):
            raise CutOffError

    return report


@pytest.fixture(autouse=True)
def save_each_step(monkeypatch):
    monkeypatch.setattr(watch, "SHARE", math.inf)


@pytest.mark.parametrize("order", [[8, 9, 0, 1, 2, 3], [1, 8, 0, 7, 2, 9]])
@pytest.mark.parametrize("name", ["lwf", "gdumb"])
def test_classes_are_gone_through_in_the_order_in_which_they_came(kit, tmp_path, name, order):
    stream = kit.stream(scenario="class", tasks={"kind": "split_classes", "per_task": 2, "order": order, "count": 3})
    strategy = kit.strategy(name)
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    with pytest.raises(CutOffError):
        run(stream, strategy, 0, tmp_path / "cut", progress=cut_off_at(3, 2), checkpoint_seconds=0.0)
    cut = run(stream, strategy, 0, tmp_path / "cut", progress=False, checkpoint_seconds=0.0)
    assert kit.same(kit.outcome(cut), kit.outcome(alone))


def test_a_set_that_would_come_back_in_another_order_is_not_stored():
    grown = set(range(40))
    grown -= set(range(40)) - {1, 8}  # two numbers in a table made for many
    assert list({1, 8}) != list(grown)
    with pytest.raises(avalanche_state._UnknownError):
        avalanche_state._encode(grown)


@pytest.mark.parametrize(("name", "place"), PLACES.items())
def test_a_run_that_is_cut_off_ends_as_if_left_alone(kit, tmp_path, name, place):
    stream, strategy = kit.stream(3), kit.strategy(name)
    alone = run(stream, strategy, 0, tmp_path / "alone", progress=False)
    with pytest.raises(CutOffError):
        run(stream, strategy, 0, tmp_path / "cut", progress=cut_off_at(3, 2), checkpoint_seconds=0.0)
    notes = []
    cut = run(stream, strategy, 0, tmp_path / "cut", progress=notes.append, checkpoint_seconds=0.0)
    assert f"going on after {place}" in str(notes[0])
    assert kit.same(kit.outcome(cut), kit.outcome(alone))
    assert kit.outcome(cut)["summary"]["resume"] == "exact"
    assert kit.outcome(cut)["summary"]["memory_bytes"] > 0


class Forgetful(SupervisedPlugin):
    """Keeps something and can't tell it."""

    def __init__(self):
        super().__init__()
        self.kept = [object()]


def test_a_plugin_that_cannot_tell_its_state_begins_again(kit, tmp_path):
    plugin = {"target": f"{__name__}.Forgetful"}
    stream, strategy, notes = kit.stream(2), kit.plain(plugins=[plugin]), []
    with pytest.raises(CutOffError):
        run(stream, strategy, 0, tmp_path, progress=cut_off_at(2, 1), checkpoint_seconds=0.0)
    run(stream, strategy, 0, tmp_path, progress=notes.append, checkpoint_seconds=0.0)
    assert any("can't be saved: a run that is cut off begins again from its start" in str(note) for note in notes)
    assert not any("going on after" in str(note) for note in notes)


def test_a_memory_of_foreign_data_is_not_stored():
    from avalanche.benchmarks.utils import as_taskaware_classification_dataset
    from torch.utils.data import TensorDataset

    data = TensorDataset(torch.rand(6, 4), torch.arange(6))
    data.targets = torch.arange(6)
    plugin = ReplayPlugin(mem_size=4)
    assert avalanche_state.state(plugin) is not None
    buffer = ReservoirSamplingBuffer(4)
    buffer.update_from_dataset(as_taskaware_classification_dataset(data))
    plugin.storage_policy.buffer_groups[0] = buffer
    assert avalanche_state.state(plugin) is None


def test_a_policy_of_the_users_is_not_taken_for_avalanches():
    class Policy(ReservoirSamplingBuffer):
        pass

    assert avalanche_state.state(ReplayPlugin(mem_size=4, storage_policy=Policy(4))) is None
    known = avalanche_state.state(ReplayPlugin(mem_size=4))
    require_plain(known)
    other = copy.deepcopy(ReplayPlugin(mem_size=4, storage_policy=ReservoirSamplingBuffer(4)))
    with pytest.raises(ValueError, match="ExperienceBalancedBuffer in place of ReservoirSamplingBuffer"):
        avalanche_state.load(other, known, None)
