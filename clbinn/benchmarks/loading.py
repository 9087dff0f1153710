"""Mini-batches from resident data, and the plugin that puts them in place of Avalanche's loader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
    ReplayDataLoader,
    SingleDatasetDataLoader,
    TaskBalancedDataLoader,
)
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import AGEMPlugin
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, default_collate

from .cache import cached
from .dataset import Device, ResidentData, resident

__all__ = ["FastLoadingPlugin", "MemoryLoader", "ParallelLoader", "TensorLoader", "epoch_order"]

_GATHERED = 512  # images: to gather a few small batches at once takes little longer than to gather one
_AVALANCHE_LOADERS = (SingleDatasetDataLoader, TaskBalancedDataLoader, GroupBalancedDataLoader, ReplayDataLoader)


def epoch_order(size: int, *seeds: int) -> Tensor:
    """An order of `size` images, `(size,)`, int64, that depends on the seeds alone."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


class TensorLoader:
    """Mini-batches [x, y, t] of resident data. An iteration is an epoch.

    Up to eight small ones are gathered at once and share memory: clone one that is to be kept.

    The order of epoch e depends on the seed and e alone, whatever was drawn before or elsewhere.

    Args:
        data: What `resident` found.
        batch_size: Images in a batch; the last one may have fewer.
        shuffle: A new order each epoch, and whole tasks rotated and permuted once and kept while the loader lives.
        generator_seed: A number, or several that are mixed.
        task_label: Replaces the task labels of the data, if not None.
        drop_last: Leave out an incomplete last batch. A last batch of one image, which batch normalisation can't
            normalise, otherwise joins the one before.
        device: Where batches come out.

    Attributes:
        epoch: The epoch that the next iteration gives, from 0; may be set.
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
    ) -> None:
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
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        together, start = max(1, min(8, _GATHERED // self.batch_size)), 0
        for first in range(0, len(sizes), together):
            block = sizes[first : first + together]
            gathered = self.data.batch(order[start : start + sum(block)])
            start += sum(block)
            # `data`: to autograd each is a tensor of its own, which may be changed in place
            parts = [[part.data for part in torch.split(column, block)] for column in gathered]
            yield from map(list, zip(*parts, strict=True))


class ParallelLoader:
    """Mini-batches of several data sets side by side, put together as Avalanche's loaders of several data sets do.

    A mini-batch holds one of each set, in the order of the sets. An epoch is one of the leading set.

    Args:
        sets: What `resident` found in each.
        batch_sizes: Images of each set in a batch.
        lead: Position of the leading set.
        oversample: Start a set that ends before the leading one again, in a new order, instead of going on without it.
        generator_seed: As of `TensorLoader`.
        drop_last: Leave out incomplete batches.
        device: Where batches come out.

    Attributes:
        epoch: As of `TensorLoader`.
    """

    def __init__(
        self,
        sets: Sequence[ResidentData],
        batch_sizes: Sequence[int],
        lead: int,
        oversample: bool,
        generator_seed: tuple[int, ...] = (0,),
        drop_last: bool = False,
        device: Device = "cpu",
    ) -> None:
        self.sets = [data.to(device) for data in sets]
        self.batch_sizes, self.lead, self.oversample, self.drop_last = batch_sizes, lead, oversample, drop_last
        self.device, self.seeds = torch.device(device), generator_seed
        self.epoch = 0
        self._kept = [data.materialise(device) for data in self.sets]

    def __len__(self) -> int:
        return self._count(self.lead)

    def __iter__(self) -> Iterator[list[Tensor]]:
        batches = [self._batches(k, self.epoch) for k in range(len(self.sets))]
        self.epoch += 1
        for _ in range(len(self)):
            columns = zip(*(batch for each in batches if (batch := next(each, None)) is not None), strict=True)
            yield [torch.cat(column) for column in columns]

    def _batches(self, k: int, epoch: int) -> Iterator[list[Tensor]]:
        data, size = self.sets[k], self.batch_sizes[k]
        for again in count() if self.oversample and self._count(k) else (0,):
            order = epoch_order(len(data), *self.seeds, epoch, k, again).to(self.device)
            for index in torch.split(order, size)[: self._count(k)]:
                yield data.batch(index)

    def _count(self, k: int) -> int:
        full, rest = divmod(len(self.sets[k]), self.batch_sizes[k])
        return full + (rest > 0 and not self.drop_last)


class MemoryLoader:
    """Mini-batches of several data sets side by side, without end, as A-GEM takes them from its memory.

    Mini-batch n depends on the seed and n alone.

    Args:
        sets: What `resident` found in each.
        batch_size: Images of each set in a mini-batch, at most.
        generator_seed: As of `TensorLoader`.
        device: Where mini-batches come out.
    """

    def __init__(
        self, sets: Sequence[ResidentData], batch_size: int, generator_seed: tuple[int, ...], device: Device = "cpu"
    ) -> None:
        self.sets, self.batch_size = [data.to(device) for data in sets], batch_size
        self.seeds, self.device = generator_seed, torch.device(device)
        self._cut: dict[int, tuple[int, tuple[Tensor, ...]]] = {}  # of each set: the pass over it, its mini-batches

    def batch(self, n: int) -> list[Tensor]:
        """Mini-batch n ≥ 0."""
        parts = [data.batch(self._positions(k, n)) for k, data in enumerate(self.sets)]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _positions(self, k: int, n: int) -> Tensor:
        size = len(self.sets[k])
        again, place = divmod(n, -(-size // self.batch_size))
        if self._cut.get(k, (None,))[0] != again:
            order = epoch_order(size, *self.seeds, k, again).to(self.device)
            self._cut[k] = again, torch.split(order, self.batch_size)
        return self._cut[k][1][place]


class FastLoadingPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Gives any Avalanche strategy resident mini-batches, where its own loader would give the same ones slowly.

    It steps in only if the strategy holds one of Avalanche's loaders (the default ones and replay's), for `TensorTask`
    data or, in training of more than one epoch, for data that are the same in each (see `clbinn.benchmarks.cache`).
    A-GEM's loader of its memory is replaced for `TensorTask` data. The order of training data depends on the seed, the
    experience and the epoch alone, that of a memory on the step.
    """

    supports_distributed = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._seen: Any = None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Replaces the loader once all plugins have put theirs in; tells it its epoch, not 0 in a resumed run."""
        if strategy.dataloader is not self._seen:
            seeds = (self.seed, strategy.clock.train_exp_counter)
            keep = strategy.train_epochs > 1
            strategy.dataloader = self._seen = _fast(strategy.dataloader, strategy.device, seeds, keep)
        if isinstance(strategy.dataloader, TensorLoader | ParallelLoader):
            strategy.dataloader.epoch = strategy.clock.train_exp_epochs
        for plugin in strategy.plugins:
            if type(plugin) is AGEMPlugin and plugin.buffers:
                plugin.buffer_dliter = self._memory(plugin, strategy) or plugin.buffer_dliter

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Lets go of the loader and with it of the task's images."""
        self._seen = None

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replaces the evaluation loader."""
        strategy.dataloader = _fast(strategy.dataloader, strategy.device, (self.seed,))

    def _memory(self, plugin: Any, strategy: Any) -> Iterator[list[Tensor]] | None:
        """Mini-batches of A-GEM's memory, each of the step at which it is asked for."""
        sets = [data for buffer in plugin.buffers if (data := resident(buffer)) is not None and len(data)]
        if len(sets) < len(plugin.buffers) or len({data.parts[0].shape for data in sets}) > 1:
            return None
        clock, size = strategy.clock, plugin.sample_size // len(sets)
        loader = MemoryLoader(sets, size, (self.seed, clock.train_exp_counter, 1), strategy.device)
        return (loader.batch(clock.train_exp_iterations) for _ in count())


@dataclass(frozen=True)
class _Settings:
    datasets: Sequence[Any]
    batch_sizes: Sequence[int]
    shuffle: bool
    drop_last: bool
    lead: int = 0
    oversample: bool = False


def _fast(loader: Any, device: torch.device, seeds: tuple[int, ...], keep: bool = False) -> Any:
    """The loader's resident double, or the loader itself if it has none; `keep` allows to read the data once for it."""
    settings = _settings(loader)
    if settings is None:
        return loader
    sets = [resident(dataset) or (cached(dataset) if keep else None) for dataset in settings.datasets]
    found = [data for data in sets if data is not None and len(data)]
    if not found or len(found) < len(sets) or len({part.shape for data in found for part in data.parts}) > 1:
        return loader
    if len(found) == 1:
        (data,), (size,) = found, settings.batch_sizes
        return TensorLoader(data, size, settings.shuffle, seeds, drop_last=settings.drop_last, device=device)
    if not settings.shuffle:
        return loader
    return ParallelLoader(
        found, settings.batch_sizes, settings.lead, settings.oversample, seeds, settings.drop_last, device
    )


def _settings(loader: Any) -> _Settings | None:
    """What a loader of a kind known here does; None for any other."""
    if type(loader) in _AVALANCHE_LOADERS:
        options = loader.loader_kwargs
        if options["collate_fn"] is not default_collate or loader.distributed_sampling or loader.never_ending:
            return None
        shuffle, drop_last = options.get("shuffle", False), options.get("drop_last", False)
        lead, oversample = loader.termination_dataset, loader.oversample_small_datasets
        return _Settings(loader.datasets, loader.batch_sizes, shuffle, drop_last, lead, oversample)
    if type(loader) is DataLoader and type(loader.sampler) in (RandomSampler, SequentialSampler):
        if loader.collate_fn is not default_collate or loader.batch_size is None:
            return None
        shuffle = type(loader.sampler) is RandomSampler
        return _Settings([loader.dataset], [loader.batch_size], shuffle, loader.drop_last)
    return None
