"""An epoch of permuted MNIST: our strategy on our stream, against Avalanche's Naive with SGD on its PermutedMNIST.

Same images, batch size and layers, on Avalanche's side torch's own modules. The limit is the matrix products of all
steps. "A task of one epoch" adds what is done once a task, such as permuting its images.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks.classic import PermutedMNIST
from avalanche.training import Naive
from images import images, images_on_disk, permuted
from loops import EpochClock, silent
from measure import Contender, Number, interleave, main, ratios, timed
from products import training_products
from torch import nn

from clbinn import benchmarks
from clbinn.nn import MLP
from clbinn.strategies import BayesBiNN

BATCH = 100


def torchs_network() -> nn.Sequential:
    """The layers of `MLP(784, [100, 100], 10)`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, units in ((784, 100), (100, 100)):
        layers += [nn.Linear(fan_in, units, bias=False), nn.ReLU(), nn.BatchNorm1d(units, affine=False)]
    return nn.Sequential(*layers, nn.Linear(100, 10, bias=False), nn.BatchNorm1d(10, affine=False))


def contender(strategy: Any, clock: EpochClock, experience: Any, whole: list[float]) -> Contender:
    """Seconds of an epoch; those of the whole task are appended to `whole`."""

    def run() -> float:
        start = time.perf_counter()
        seconds = clock.train(strategy, experience)
        whole.append(time.perf_counter() - start)
        return seconds

    return run


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    data = images(options.data_root, options.quick, note)
    steps = len(data.train_images) // BATCH
    whole: dict[str, list[float]] = {"ours": [], "naive": []}
    clock = EpochClock()
    given = {"train_mb_size": BATCH, "train_epochs": 1, "plugins": [clock]}
    other = torchs_network()
    ours = BayesBiNN(model=MLP(784, [100, 100], 10), evaluator=silent(), seed=0, **given)
    naive = Naive(model=other, optimizer=torch.optim.SGD(other.parameters(), lr=0.01), evaluator=silent(), **given)
    with images_on_disk(data) as folder:
        stream = benchmarks.load(permuted(folder)).train_stream
        foreign = PermutedMNIST(1, seed=0, dataset_root=folder).train_stream
        seconds = interleave(
            {
                "ours": contender(ours, clock, stream[0], whole["ours"]),
                "naive": contender(naive, clock, foreign[0], whole["naive"]),
                "products": timed(training_products(MLP(784, [100, 100], 10), torch.randn(BATCH, 784)), steps),
            },
            options.rounds,
        )
    limit = [steps * value for value in seconds["products"]]
    tasks = {name: values[-options.rounds :] for name, values in whole.items()}  # the warm-up comes first
    return [
        Number("epoch, our strategy (BayesBiNN)", "s", seconds["ours"], limit),
        Number("epoch, Avalanche's Naive with SGD", "s", seconds["naive"], limit),
        Number("matrix products of an epoch alone (the limit)", "s", limit),
        Number("epoch, Avalanche's time over ours", "×", ratios(seconds["naive"], seconds["ours"])),
        Number("a task of one epoch, our strategy", "s", tasks["ours"], limit),
        Number("a task of one epoch, Avalanche's time over ours", "×", ratios(tasks["naive"], tasks["ours"])),
    ]


if __name__ == "__main__":
    main("epoch", measure, rounds=5, takes=("threads", "data_root"))
