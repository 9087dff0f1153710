"""The network of a run, with one bit a weight."""

import pytest
import torch

from clbinn import packed
from clbinn.errors import UserError
from clbinn.experiments import checkpoint
from clbinn.experiments.export import export
from clbinn.experiments.run import run


@pytest.fixture(scope="module")
def finished(kit, tmp_path_factory):
    return run(kit.stream(), kit.strategy("bayesbinn"), 0, tmp_path_factory.mktemp("runs"), progress=False)


def test_the_mode_of_a_finished_run(finished, tmp_path):
    text = export(finished, tmp_path / "net.npz")
    assert "net.npz: 1,480 weights of one bit" in text  # 64 · 20 + 20 · 10
    network = packed.load(tmp_path / "net.npz")
    learned = checkpoint.load(finished / checkpoint.CURRENT)["learner"]
    assert all(torch.equal(network[name], value) for name, value in learned["model"].items())
    modes = [torch.where(entry["natural"] >= 0, 1.0, -1.0) for entry in learned["optimizer"]["state"].values()]
    binary = [value for value in network.values() if packed.binary(value)]
    assert all(torch.equal(a, b) for a, b in zip(binary, modes, strict=True))


def test_the_best_epoch_of_a_single_task(tmp_path):
    one, other = torch.ones(3), -torch.ones(3)
    best = {"epoch": 1, "learner": {"network": {"w": other}}}
    checkpoint.save(tmp_path, {"learner": {"network": {"w": one}}, "progress": {"best": best}})
    export(tmp_path, tmp_path / "net.npz")
    assert torch.equal(packed.load(tmp_path / "net.npz")["w"], other)


def test_a_single_task_that_was_cut_off_in_its_first_epoch(tmp_path):
    here = torch.ones(3)
    checkpoint.save(tmp_path, {"learner": {"network": {"w": here}}, "progress": {"best": {}}})
    export(tmp_path, tmp_path / "net.npz")
    assert torch.equal(packed.load(tmp_path / "net.npz")["w"], here)


def test_what_cannot_be_exported(finished, tmp_path, kit):
    with pytest.raises(UserError, match="there is no checkpoint"):
        export(tmp_path, tmp_path / "net.npz")
    checkpoint.save(tmp_path, {"learner": {"model": {"w": torch.zeros(3)}}})
    with pytest.raises(UserError, match="none of the network's weights are ±1"):
        export(tmp_path, tmp_path / "net.npz")
    with pytest.raises(UserError, match="can't be written"):
        export(finished, tmp_path / "nowhere" / "net.npz")
    (tmp_path / checkpoint.CURRENT).write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged"):
        export(tmp_path, tmp_path / "net.npz")
