"""Mini-batches from resident data, and the plugin that puts them in place of Avalanche's loader."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader, TaskBalancedDataLoader
from avalanche.core import SupervisedPlugin
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from .cache import cached
from .dataset import Device, ResidentData, resident

__all__ = ["FastLoadingPlugin", "TensorLoader", "epoch_order"]


def epoch_order(size: int, *seeds: int) -> Tensor:
    """An order of `size` images, `(size,)`, int64, that depends on the seeds alone."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


class TensorLoader:
    """Mini-batches [x, y, t] of resident data, each one gather. An iteration is an epoch.

    The order of epoch e depends on the seed and e alone, whatever was drawn before or elsewhere.

    Args:
        data: what `resident` found.
        batch_size: images in a batch; the last one may have fewer.
        shuffle: a new order each epoch, and whole tasks rotated and permuted once and kept while the loader lives.
        generator_seed: a number, or several that are mixed.
        task_label: replaces the task labels of the data, if not None.
        drop_last: leave out an incomplete last batch. A last batch of one image, which batch normalisation can't
            normalise, otherwise joins the one before.
        device: where batches come out.

    Attributes:
        epoch: the epoch that the next iteration gives, from 0; may be set.
    """

    def __init__(
        self,
        data: ResidentData,
        batch_size: int,
        shuffle: bool,
        generator_seed: int | tuple[int, ...] = 0,
        task_label: int | None = None,
        drop_last: bool = False,
        device: Device = "cpu",
    ):
        if task_label is not None:
            data = ResidentData(data.parts, data.index, task_label)
        self.data = data.to(device)
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.device = torch.device(device)
        self.seeds = generator_seed if isinstance(generator_seed, tuple) else (generator_seed,)
        self.epoch = 0
        self._kept = self.data.materialise(device) if shuffle else []

    def __len__(self) -> int:
        full, rest = divmod(len(self.data), self.batch_size)
        alone = rest == 1 and full > 0
        return full + (rest > 0 and not alone and not self.drop_last)

    def __iter__(self) -> Iterator[list[Tensor]]:
        size = len(self.data)
        order = epoch_order(size, *self.seeds, self.epoch) if self.shuffle else torch.arange(size)
        self.epoch += 1
        order = order.to(self.device)
        ends = [self.batch_size * (i + 1) for i in range(len(self))]
        if not self.drop_last and ends:
            ends[-1] = size
        for start, end in zip([0, *ends], ends, strict=False):
            yield self.data.batch(order[start:end])


class FastLoadingPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Gives any Avalanche strategy resident mini-batches, where its own loader would give the same ones slowly.

    It steps in only if the strategy holds a loader that Avalanche makes by default, for one group of `TensorTask` data,
    or, in training of more than one epoch, of data that are the same in each (see `clbinn.benchmarks.cache`). A loader
    that a plugin has put in (replay) stays. The order of training data depends on the seed, the experience and the
    epoch alone.
    """

    supports_distributed = False

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed = seed

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replaces the training loader."""
        experience = strategy.clock.train_exp_counter
        seeds = (self.seed, experience)
        strategy.dataloader = _fast(strategy.dataloader, strategy.device, seeds, keep=strategy.train_epochs > 1)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Tells the loader its epoch, which a resumed run doesn't start from 0."""
        if isinstance(strategy.dataloader, TensorLoader):
            strategy.dataloader.epoch = strategy.clock.train_exp_epochs

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replaces the evaluation loader."""
        strategy.dataloader = _fast(strategy.dataloader, strategy.device, (self.seed,))


def _fast(loader: Any, device: torch.device, seeds: tuple[int, ...], keep: bool = False) -> Any:
    """The loader's resident double, or the loader itself if it has none; `keep` allows to read the data once for it."""
    settings = _settings(loader)
    if settings is None:
        return loader
    dataset, batch_size, shuffle, drop_last = settings
    data = resident(dataset)
    if data is None and keep:
        data = cached(dataset)
    if data is None or len(data) == 0:
        return loader
    return TensorLoader(data, batch_size, shuffle, seeds, drop_last=drop_last, device=device)


def _settings(loader: Any) -> tuple[Any, int, bool, bool] | None:
    """Dataset, batch size, shuffle and drop_last of a loader of a default kind; None for any other."""
    if type(loader) in (SingleDatasetDataLoader, TaskBalancedDataLoader):
        options = loader.loader_kwargs
        if len(loader.datasets) != 1 or options["collate_fn"] is not default_collate or loader.distributed_sampling:
            return None
        return loader.datasets[0], loader.batch_sizes[0], options.get("shuffle", False), options.get("drop_last", False)
    if type(loader) is DataLoader and type(loader.sampler) in (RandomSampler, SequentialSampler):
        if loader.collate_fn is not default_collate or loader.batch_size is None:
            return None
        return loader.dataset, loader.batch_size, type(loader.sampler) is RandomSampler, loader.drop_last
    return None
