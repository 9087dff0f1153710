"""MNIST's images for the timings, the same bytes for everyone who is timed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from clbinn.benchmarks.data import present, search_roots
from clbinn.benchmarks.sources import load_source
from clbinn.schema import BenchmarkRecipe, SourceSpec

__all__ = ["MEAN", "STD", "Images", "images", "images_on_disk", "permuted"]

MEAN, STD = 0.1307, 0.3081


@dataclass(frozen=True)
class Images:
    """Bytes (n, 1, 28, 28) and labels (n,)."""

    train_images: Tensor
    train_targets: Tensor
    test_images: Tensor
    test_targets: Tensor


def images(data_root: Path | None, quick: bool, note: Callable[[str], None]) -> Images:
    """MNIST if it is found, otherwise made-up bytes of its shape; `quick` is a few made-up ones."""
    if not quick and any(present("mnist", root) for root in search_roots(data_root)):
        source = load_source(SourceSpec(dataset="mnist"), data_root, download=False)
        note("data: MNIST")
        return Images(source.train_images, source.train_targets, source.test_images, source.test_targets)
    train, test = (600, 200) if quick else (60_000, 10_000)
    note(f"data: made-up bytes of MNIST's shape, {train:,} and {test:,} images")
    generator = torch.Generator().manual_seed(0)

    def made(count: int) -> tuple[Tensor, Tensor]:
        pixels = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
        return pixels, torch.arange(count) % 10

    return Images(*made(train), *made(test))


@contextmanager
def images_on_disk(data: Images) -> Iterator[Path]:
    """A temporary folder with the images in torchvision's layout, for those who read files."""
    with TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part, pixels, targets in (
            ("train", data.train_images, data.train_targets),
            ("t10k", data.test_images, data.test_targets),
        ):
            _write_idx(raw / f"{part}-images-idx3-ubyte", pixels.squeeze(1))
            _write_idx(raw / f"{part}-labels-idx1-ubyte", targets.to(torch.uint8))
        yield Path(folder)


def permuted(folder: Path) -> BenchmarkRecipe:
    """One task of permuted MNIST from such a folder."""
    return BenchmarkRecipe.model_validate(
        {
            "name": "permuted_mnist",
            "source": {
                "dataset": "idx",
                "path": str(folder / "MNIST" / "raw"),
                "normalise": {"mean": MEAN, "std": STD},
            },
            "tasks": {"kind": "permute_pixels", "count": 1},
        }
    )


def _write_idx(path: Path, values: Tensor) -> None:
    header = [0x0800 + values.ndim, *values.shape]
    path.write_bytes(b"".join(size.to_bytes(4, "big") for size in header) + values.numpy().tobytes())
