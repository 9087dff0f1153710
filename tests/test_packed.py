"""One bit a weight, and nothing lost."""

import contextlib
import json
import struct
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from clbinn import packed
from clbinn.nn import MLP
from clbinn.optim import STE, BayesBiNN


def same(a, b):
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )


def test_bits_are_as_described():
    weights = torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    assert packed.pack(weights).tolist() == [0b10011000, 0b10000000]
    assert torch.equal(packed.unpack(packed.pack(weights), (3, 3)), weights)
    for wrong in (torch.zeros(3), torch.tensor([1.0, 0.5]), torch.ones(2, dtype=torch.long)):
        with pytest.raises(ValueError, match="-1 and \\+1"):
            packed.pack(wrong)
    with pytest.raises(ValueError, match="1 bytes don't hold 9 weights"):
        packed.unpack(np.zeros(1, np.uint8), (3, 3))


@pytest.mark.parametrize("optimizer", [lambda p: BayesBiNN(p, num_data=10, seed=0), STE])
def test_a_network_comes_back_as_it_was(tmp_path, optimizer):
    torch.manual_seed(0)
    net = MLP(784, [100, 100], 10)
    optimizer(net.parameters())
    net(torch.randn(20, 784))  # statistics of batch normalisation
    file = tmp_path / "net.npz"
    assert packed.save(net.state_dict(), file) == 89_400
    assert 89_400 / 8 < file.stat().st_size < 89_400 / 8 + 5_000
    assert same(packed.load(file), net.state_dict())
    other = MLP(784, [100, 100], 10)
    other.load_state_dict(packed.load(file))
    x = torch.randn(5, 784)
    assert torch.equal(other.eval()(x), net.eval()(x))


def test_any_state_dict_comes_back_as_it_was(tmp_path):
    state = {
        "double": torch.tensor([1.0, -1.0], dtype=torch.float64),
        "half": torch.tensor([1.0, -1.0, 1.0], dtype=torch.bfloat16),
        "real": torch.randn(3, 2),
        "real.half": torch.randn(3).to(torch.bfloat16),
        "scalar": torch.tensor(1.0),
        "count": torch.tensor(7),
        "nothing": torch.empty(0, 3),
        "strided": torch.randn(4, 6).sign()[:, ::2],
        "mask": torch.tensor([True, False]),
    }
    packed.save(state, tmp_path / "any.npz")
    assert same(packed.load(tmp_path / "any.npz"), state)


def test_numpy_reads_it_alone(tmp_path):
    net = nn.Linear(5, 3, bias=False)
    BayesBiNN(net.parameters(), num_data=10, seed=0)
    packed.save(net.state_dict(), tmp_path / "net.npz")
    bits = np.unpackbits(np.load(tmp_path / "net.npz")["weight"], count=15).reshape(3, 5)
    np.testing.assert_array_equal(2.0 * bits - 1, net.weight.detach().numpy())


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "net.npz"
    with pytest.raises(FileNotFoundError):
        packed.load(file)
    file.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"net\.npz: not a packed network"):
        packed.load(file)
    np.savez(file, weight=np.ones(3))
    with pytest.raises(ValueError, match="not a packed network"):
        packed.load(file)
    for index in ([], {"weight": 1}, {"weight": {"shape": [9], "type": "float32", "packed": True}}):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("index.json", json.dumps(index))
            with archive.open("weight.npy", "w") as entry:
                np.lib.format.write_array(entry, np.zeros(1, np.uint8))
        with pytest.raises(ValueError, match="not a packed network"):
            packed.load(file)


def test_a_damaged_file_is_a_value_error(tmp_path):
    file = tmp_path / "net.npz"
    packed.save(nn.Linear(50, 4).state_dict(), file)
    whole = file.read_bytes()
    for place in range(0, len(whole), 5):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):  # what zip does not check, such as a date, may be another
            packed.load(file)


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'shape': (", "{'descr': ',1', 'fortran_order': False, 'shape': (1,)}"]
)
def test_a_bad_header_of_an_array_is_a_value_error(tmp_path, header):
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("index.json", json.dumps({"w": {"shape": [1], "type": "float32", "packed": False}}))
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(ValueError, match="not a packed network"):
        packed.load(tmp_path / "net.npz")


def test_objects_are_not_unpickled(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("index.json", json.dumps({"w": {"shape": [1], "type": "float32", "packed": False}}))
        with archive.open("w.npy", "w") as entry:
            np.lib.format.write_array(entry, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        packed.load(tmp_path / "net.npz")
