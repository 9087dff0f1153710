"""A training step of the network of Table 12 (784-100-100-10), batches of 100, S = 1.

Through the Avalanche strategy with its data; a bare loop with the same optimizer and data; a plain loop, the equations
written out in torch; forward and backward alone; the matrix products alone, which are the limit.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from authors import Authors, batches
from images import images, images_on_disk, permuted
from loops import EpochClock, silent
from measure import Contender, Number, interleave, main, ratios, timed
from products import training_products
from torch import nn
from torch.nn import functional as F

from clbinn import benchmarks, bernoulli, optim
from clbinn.benchmarks import TensorLoader, resident
from clbinn.nn import MLP
from clbinn.strategies import BayesBiNN

BATCH = 100


def network() -> MLP:
    return MLP(784, [100, 100], 10)


def through_strategy(experience: Any, steps: int) -> Contender:
    clock = EpochClock()
    strategy = BayesBiNN(
        model=network(), train_mb_size=BATCH, train_epochs=1, plugins=[clock], evaluator=silent(), seed=0
    )
    return lambda: clock.train(strategy, experience) / steps


def bare_loop(loader: TensorLoader, num_data: int, steps: int) -> Contender:
    net = network()
    opt = optim.BayesBiNN(net.parameters(), num_data=num_data, seed=0)

    def epoch() -> float:
        start = time.perf_counter()
        for x, y, *_ in loader:
            with opt.sampled_params():
                F.cross_entropy(net(x), y).backward()
            opt.step()
        return (time.perf_counter() - start) / steps

    return epoch


def plain_loop(
    loader: TensorLoader, num_data: int, steps: int, temperature: float = 1e-2, lr: float = 1e-4
) -> Contender:
    """What one would write first: torch's layers, one operation after the other, a tensor for each parameter."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, units in ((784, 100), (100, 100), (100, 10)):
        layers += [nn.Linear(fan_in, units, bias=False), nn.ReLU(), nn.BatchNorm1d(units, affine=False)]
    del layers[-2]  # no ReLU on the outputs
    net = nn.Sequential(*layers)
    weights = list(net.parameters())
    naturals = [torch.randn_like(w).sign() * 10 for w in weights]
    priors = [torch.zeros_like(w) for w in weights]

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        with torch.no_grad():
            for weight, natural in zip(weights, naturals, strict=True):
                noise = bernoulli.logistic_noise(torch.rand_like(natural))
                weight.copy_(bernoulli.relaxed_sample(natural, noise, temperature))
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
        with torch.no_grad():
            for weight, natural, prior in zip(weights, naturals, priors, strict=True):
                scale = bernoulli.gradient_scale(weight, natural, temperature, num_data)
                natural -= lr * (scale * weight.grad + natural - prior)

    def epoch() -> float:
        start = time.perf_counter()
        for x, y, *_ in loader:
            step(x, y)
        return (time.perf_counter() - start) / steps

    return epoch


def forward_backward(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    net = network()

    def run() -> None:
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()

    return run


def authors(checkout: Path, folder: Path, num_data: int, steps: int) -> dict[str, Contender]:
    """Few steps a round: theirs take long."""
    theirs, steps = Authors(checkout, num_data), min(steps, 60)
    batch = batches(folder, BATCH, torch.randperm(784))
    x, y = batch()
    return {
        "authors": timed(lambda: theirs.step(*batch()), steps),
        "authors without loading": timed(lambda: theirs.step(x, y), steps),
    }


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    data = images(options.data_root, options.quick, note)
    with images_on_disk(data) as folder:
        experience = benchmarks.load(permuted(folder)).train_stream[0]
        found = resident(experience.dataset)
        num_data, steps = len(found), len(found) // BATCH
        loader = TensorLoader(found, BATCH, shuffle=True)
        x, y, *_ = next(iter(loader))
        contenders = {
            "strategy": through_strategy(experience, steps),
            "bare": bare_loop(loader, num_data, steps),
            "plain": plain_loop(loader, num_data, steps),
            "forward, backward": timed(forward_backward(x, y), steps),
            "products": timed(training_products(network(), x), steps),
        }
        if options.baseline is not None:
            contenders |= authors(options.baseline, folder, num_data, steps)
        seconds = interleave(contenders, options.rounds)
    ms = {name: [1e3 * value for value in values] for name, values in seconds.items()}
    limit = ms["products"]
    numbers = [
        Number("step through the strategy, data included", "ms", ms["strategy"], limit),
        Number("step of a bare loop, data included", "ms", ms["bare"], limit),
        Number("step of a plain loop, data included", "ms", ms["plain"], limit),
        Number("forward and backward alone", "ms", ms["forward, backward"], limit),
        Number("matrix products alone (the limit)", "ms", limit),
        Number(
            "overhead of the strategy over the bare loop",
            "%",
            [100 * (ratio - 1) for ratio in ratios(ms["strategy"], ms["bare"])],
        ),
        Number("the plain loop's time over the strategy's", "×", ratios(ms["plain"], ms["strategy"])),
    ]
    if options.baseline is not None:
        numbers += [
            Number("the authors' step, data included", "ms", ms["authors"], limit),
            Number("the authors' step without loading", "ms", ms["authors without loading"], limit),
            Number("the authors' time over ours, data included", "×", ratios(ms["authors"], ms["strategy"])),
        ]
    return numbers


if __name__ == "__main__":
    main("step", measure, rounds=20, takes=("threads", "data_root", "baseline"))
