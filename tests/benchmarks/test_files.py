import contextlib
import gzip

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clbinn.benchmarks import data, files, sources
from clbinn.benchmarks.idx import read_idx
from clbinn.errors import DataError, RecipeError
from clbinn.schema import SourceSpec


def load(dataset, **words):
    return sources.load_source(SourceSpec(dataset=dataset, **words))


def write_idx(path, array, code=8):
    header = bytes([0, 0, code, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def idx_folder(tmp_path):
    random = np.random.RandomState(0)
    arrays = {}
    for part, n in (("train", 6), ("t10k", 4)):
        arrays[part] = random.randint(0, 256, (n, 5, 4)), np.arange(n) % 3
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", arrays[part][0])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", arrays[part][1])
    return tmp_path, arrays


def test_idx_files_are_read_plain_or_packed(idx_folder):
    folder, arrays = idx_folder
    plain = folder / "t10k-images-idx3-ubyte"
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    source = load("idx", path=str(folder))
    assert source.shape == (1, 5, 4)
    assert torch.equal(source.train_images[:, 0], torch.from_numpy(arrays["train"][0]).byte())
    assert torch.equal(source.test_images[:, 0], torch.from_numpy(arrays["t10k"][0]).byte())
    assert source.test_targets.tolist() == [0, 1, 2, 0]


def test_a_relative_path_is_looked_up_in_the_data_roots(idx_folder, monkeypatch):
    folder, _ = idx_folder
    assert len(sources.load_source(SourceSpec(dataset="idx", path=folder.name), folder.parent).train_images) == 6
    monkeypatch.setenv("CLBINN_DATA", str(folder.parent))
    assert len(load("idx", path=folder.name).train_images) == 6
    with pytest.raises(DataError, match=r"nothing_here was not found. Looked for nothing_here, .*clbinn"):
        load("idx", path="nothing_here")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: b[:-1], r"says it holds 6 x 5 x 4 bytes, 136 with its header, but has 135"),
        (lambda b: b + b"\0", "but has 137"),
        (lambda b: b"\0\0\x0d\x03" + b[4:], "magic number is 0x00000d03, expected 0x00000803"),
        (lambda b: b"PK\x03\x04" + b[4:], "not an IDX file"),
        (lambda b: b"", "not an IDX file"),
        (lambda b: b[:10], "says it holds"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "says it holds 4294967295 x"),
        (lambda b: b[:4] + bytes(12), "is empty"),
    ],
)
def test_damaged_idx_files_give_one_message(idx_folder, spoil, message):
    file = idx_folder[0] / "train-images-idx3-ubyte"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(DataError, match=message):
        load("idx", path=str(idx_folder[0]))


@given(cut=st.integers(0, 60))
def test_truncated_gzip_gives_one_message(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("gz") / "labels.gz"
    whole = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 40]) + bytes(range(40)), mtime=0)
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(DataError, match=r"labels.gz (can't be read|is not an IDX file)"):
        read_idx(path, 1)


@given(content=st.binary(max_size=60), ndim=st.sampled_from([1, 3]), magic=st.booleans())
def test_any_bytes_are_an_idx_file_or_a_data_error(tmp_path_factory, content, ndim, magic):
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes((bytes([0, 0, 8, ndim]) if magic else b"") + content)
    with contextlib.suppress(DataError):
        assert read_idx(path, ndim).ndim == ndim


def test_missing_idx_file_is_named(idx_folder):
    (idx_folder[0] / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"has no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"):
        load("idx", path=str(idx_folder[0]))


def arrays(n=6, shape=(5, 4), **changed):
    random = np.random.RandomState(0)
    made = {}
    for part in ("train", "test"):
        made[f"{part}_images"] = random.randint(0, 256, (n, *shape), dtype=np.uint8)
        made[f"{part}_labels"] = np.arange(n) % 3
    return made | changed


def npz(tmp_path, **content):
    np.savez(tmp_path / "data.npz", **content)
    return load("npz", path=str(tmp_path / "data.npz"))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 4), (1, 5, 4)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((12,), (12,))],
)
def test_npz_images_become_channels_first(tmp_path, shape, expected):
    content = arrays(shape=shape)
    source = npz(tmp_path, **content)
    assert source.shape == expected
    raw = content["train_images"]
    moved = np.moveaxis(raw, -1, 1) if len(shape) == 3 and shape[-1] in (1, 3) else raw
    assert torch.equal(source.train_images.flatten(1), torch.from_numpy(moved.reshape(6, -1)))


def test_npz_types_become_bytes_or_float32(tmp_path):
    wide = {f"{part}_images": arrays()[f"{part}_images"].astype(np.int64) for part in ("train", "test")}
    assert npz(tmp_path, **arrays(**wide)).train_images.dtype == torch.uint8
    real = {name: value / 7 for name, value in wide.items()}
    source = npz(tmp_path, **arrays(**real))
    torch.testing.assert_close(source.test_images[:, 0], torch.from_numpy(real["test_images"]).float())


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.int16])
def test_whole_numbers_up_to_255_of_any_type_are_bytes(tmp_path, kind):
    plain = arrays()
    wide = npz(
        tmp_path, **arrays(**{f"{part}_images": plain[f"{part}_images"].astype(kind) for part in ("train", "test")})
    )
    assert torch.equal(wide.train_images[:, 0], torch.from_numpy(plain["train_images"]))
    with pytest.raises(DataError, match="bytes"):
        npz(tmp_path, **arrays(train_images=np.full((6, 5, 4), 256, kind)))


def nan_at(image):
    images = arrays()["train_images"].astype(np.float32)
    images[image, 2, 1] = np.nan
    return {"train_images": images, "test_images": np.zeros((6, 5, 4), np.float32)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": np.arange(5)}, r"same n, none of them empty; they are \(6, 5, 4\) and \(5,\)"),
        ({"train_labels": np.zeros((6, 1), int)}, r"\(6, 1\)"),
        ({"train_labels": np.zeros(6)}, "whole numbers, not torch.float64"),
        ({"train_labels": np.arange(6) - 1}, "counted from 0; they reach from -1 to 4"),
        ({"train_labels": np.array([0, 1, 2, 3, 4, 99999])}, "reach from 0 to 99999"),
        ({"train_labels": np.array(list("abcabc"))}, "not an array of numbers"),
        ({"test_labels": np.arange(6)}, r"test labels \[3, 4, 5\] don't occur in training"),
        ({"test_images": np.zeros((6, 5, 5), np.uint8)}, r"shape and type of an image must be the same"),
        ({"test_images": np.zeros((6, 5, 4), np.float32)}, r"\(1, 5, 4\) of uint8, test images \(1, 5, 4\) of float32"),
        ({"train_images": np.full((6, 5, 4), 256)}, "bytes"),
        ({"train_images": np.zeros((6, 5, 4), bool)}, "bytes"),
        ({"train_images": np.zeros((6, 5, 4), complex)}, "bytes"),
        ({"train_images": np.tile(np.eye(5, 4, dtype=np.uint8), (6, 1, 1))}, "0 and 1, and bytes"),
        ({"train_images": np.zeros((0, 5, 4), np.uint8), "train_labels": np.zeros(0, int)}, "none of them empty"),
        (nan_at(4), "1 training images hold NaN or infinity, the first is image 4"),
    ],
)
def test_arrays_that_do_not_fit_give_one_message(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        npz(tmp_path, **arrays(**changed))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_npz_is_read_or_gives_one_message(tmp_path_factory, damage):
    file = tmp_path_factory.mktemp("npz") / "data.npz"
    np.savez_compressed(file, **arrays())
    content = bytearray(file.read_bytes())
    for position, value in damage:
        content[int(position * len(content))] = value
    file.write_bytes(content)
    with contextlib.suppress(DataError):
        assert load("npz", path=str(file)).shape == (1, 5, 4)


def test_npz_faults_name_the_file(tmp_path):
    file = tmp_path / "data.npz"
    with pytest.raises(DataError, match=r"has no test_images, test_labels; it has train_images, train_labels"):
        npz(tmp_path, **{k: v for k, v in arrays().items() if k.startswith("train")})
    with pytest.raises(DataError, match=r"Object arrays cannot be loaded"):
        npz(tmp_path, **arrays(train_images=np.array([{}] * 6)))
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"data.npz can't be read"):
            load("npz", path=str(file))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="single array"):
        load("npz", path=str(tmp_path / "one.npy"))


@pytest.fixture
def picture_folder(tmp_path):
    random = np.random.RandomState(0)
    for part in ("train", "test"):
        for name in ("cat", "ant"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                pixels = random.randint(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return tmp_path


def test_a_folder_of_images_has_a_class_per_folder(picture_folder):
    source = load("images", path=str(picture_folder))
    assert source.shape == (3, 6, 5)
    assert source.train_targets.tolist() == [0, 0, 1, 1]
    first = np.asarray(Image.open(picture_folder / "train" / "ant" / "0.png"))
    assert torch.equal(source.train_images[0], torch.from_numpy(first.copy()).permute(2, 0, 1))


def test_images_of_several_sizes_are_refused_or_resized(picture_folder):
    Image.new("RGB", (9, 9)).save(picture_folder / "test" / "cat" / "2.png")
    with pytest.raises(DataError, match=r"2.png is 9x9, the images before it are 5x6: set"):
        load("images", path=str(picture_folder))
    assert load("images", path=str(picture_folder), options={"size": 4}).shape == (3, 4, 4)


def test_grey_images_have_one_channel(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (3, 3), 7).save(tmp_path / part / "a" / "x.png")
    assert load("images", path=str(tmp_path)).shape == (1, 3, 3)


def pictures(folder, *made):
    """Folders train/a and test/a with the images `made`, as PNG files in this order."""
    for part in ("train", "test"):
        (folder / part / "a").mkdir(parents=True)
        for i, picture in enumerate(made):
            picture.save(folder / part / "a" / f"{i}.png")
    return load("images", path=str(folder)).train_images.numpy()


def test_grey_images_among_coloured_ones_become_coloured(tmp_path):
    colour = np.random.RandomState(0).randint(0, 256, (4, 5, 3), dtype=np.uint8)
    seen = pictures(tmp_path, Image.new("L", (5, 4), 7), Image.fromarray(colour))
    assert np.array_equal(seen[0], np.full((3, 4, 5), 7))
    assert np.array_equal(seen[1], colour.transpose(2, 0, 1))


def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path):
    values = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    assert np.array_equal(pictures(tmp_path, Image.fromarray(values))[0, 0], values // 256)


def test_pixels_of_unknown_range_are_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / part / "a" / "0.tiff")
    with pytest.raises(DataError, match=r"0.tiff .* unknown range; save it with 8 or 16 bits"):
        load("images", path=str(tmp_path))


@pytest.mark.parametrize("size", [0, 2.5, "8", [8, 8], True])
def test_a_size_that_is_none_is_refused(picture_folder, size):
    with pytest.raises(RecipeError, match="size must be a whole number of pixels from 1"):
        load("images", path=str(picture_folder), options={"size": size})


def test_faults_in_a_folder_of_images_name_the_place(picture_folder, tmp_path):
    (picture_folder / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"has classes that .* lacks: dog"):
        load("images", path=str(picture_folder))
    (picture_folder / "test" / "dog").rmdir()
    broken = picture_folder / "train" / "cat" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1.png is not an image that can be read"):
        load("images", path=str(picture_folder))
    with pytest.raises(DataError, match=r"train is missing"):
        load("images", path=str(picture_folder / "train" / "ant"))


def test_home_that_is_not_known(monkeypatch, tmp_path):
    with pytest.raises(DataError, match=r"~nobody-at-all/x: there is no such home folder"):
        files.find_path("~nobody-at-all/x", None)
    monkeypatch.delenv("CLBINN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-at-all")
    with pytest.raises(DataError, match="give a full path"):
        data.search_roots()
    assert data.search_roots(tmp_path) == [tmp_path]
