import os
import pickle
import zipfile

import pytest
import torch

from clbinn.experiments import checkpoint
from clbinn.experiments.checkpoint import CURRENT, PREVIOUS, DamagedError, load, load_latest, require_plain, save

STATE = {
    "numbers": [1, 2.5, None, True, "text", 2**70],
    "nested": {0: {"lambda": torch.arange(6.0).view(2, 3)}, "bytes": torch.tensor([1, 2], dtype=torch.uint8)},
    "views": list(torch.arange(4.0).split(2)),
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return list(map(equal, a, b)) == [True] * len(a) if isinstance(a, list) else a == b


def test_round_trip(tmp_path):
    save(tmp_path, STATE)
    assert equal(load(tmp_path / CURRENT), STATE)


def test_anyone_can_read_it(tmp_path):
    save(tmp_path, STATE)
    assert equal(torch.load(tmp_path / CURRENT, weights_only=True), STATE)
    assert zipfile.ZipFile(tmp_path / CURRENT).testzip() is None


def test_the_one_before_is_kept(tmp_path):
    for number in range(3):
        save(tmp_path, {"number": number})
    assert load(tmp_path / CURRENT)["number"] == 2
    assert load(tmp_path / PREVIOUS)["number"] == 1
    assert sorted(os.listdir(tmp_path)) == [PREVIOUS, CURRENT]


def test_every_flipped_byte_is_found(tmp_path):
    save(tmp_path, {"weight": torch.ones(3)})
    content = (tmp_path / CURRENT).read_bytes()
    for position in range(0, len(content), 7):
        broken = bytearray(content)
        broken[position] ^= 1 << (position % 8)
        (tmp_path / CURRENT).write_bytes(broken)
        with pytest.raises(DamagedError):
            load(tmp_path / CURRENT)


def test_every_cut_is_found(tmp_path):
    save(tmp_path, {"weight": torch.ones(3)})
    content = (tmp_path / CURRENT).read_bytes()
    for length in [0, 1, 63, 64, 71, *range(100, len(content), 97), len(content) - 1]:
        (tmp_path / CURRENT).write_bytes(content[:length])
        with pytest.raises(DamagedError):
            load(tmp_path / CURRENT)


def test_damage_is_named_and_the_one_before_used(tmp_path):
    save(tmp_path, {"number": 1})
    save(tmp_path, {"number": 2})
    (tmp_path / CURRENT).write_bytes(b"nothing")
    state, [fault] = load_latest(tmp_path)
    assert state == {"number": 1}
    assert CURRENT in fault
    assert "checksum" in fault
    (tmp_path / PREVIOUS).unlink()
    assert load_latest(tmp_path)[0] is None


def test_killed_between_the_two_renames(tmp_path):
    save(tmp_path, {"number": 1})
    (tmp_path / CURRENT).rename(tmp_path / PREVIOUS)
    assert load_latest(tmp_path) == ({"number": 1}, [])


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("wrap", [True, False], ids=["with checksum", "pickle"])
def test_a_strangers_checkpoint_executes_nothing(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    if wrap:  # a valid file in all but what it holds
        monkeypatch.setattr(checkpoint, "require_plain", lambda state: None)
        save(tmp_path, {"weight": Malicious()})
    else:
        (tmp_path / CURRENT).write_bytes(pickle.dumps(Malicious()))
    state, [fault] = load_latest(tmp_path)
    assert state is None
    assert CURRENT in fault
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": {"b": [1, object()]}}, r"state\['a'\]\['b'\]\[1\] is a object"),
        ({"a": {1.5: 2}}, r"state\['a'\] has a key of type float"),
        ({"a": torch.nn.Linear(1, 1)}, r"state\['a'\] is a Linear"),
    ],
)
def test_only_plain_values(state, place):
    with pytest.raises(TypeError, match=place):
        require_plain(state)


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, {"number": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, {"number": 2})
    assert os.listdir(tmp_path) == [CURRENT]
    assert load(tmp_path / CURRENT) == {"number": 1}


def test_a_damaged_checkpoint_does_not_push_out_the_whole_one_before_it(tmp_path):
    for number in (1, 2):
        save(tmp_path, {"number": number})
    (tmp_path / CURRENT).write_bytes(b"damaged")
    assert load_latest(tmp_path, set_aside=True)[0] == {"number": 1}
    save(tmp_path, {"number": 3})
    assert load(tmp_path / CURRENT) == {"number": 3}
    assert load(tmp_path / PREVIOUS) == {"number": 1}
    assert (tmp_path / "checkpoint.damaged.pt").read_bytes() == b"damaged"
