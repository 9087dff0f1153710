"""A training step of the paper's larger networks with each optimizer: the share outside products and convolutions.

Table 5 (784-2048-2048-2048-10, dropout, batches of 100) and Table 8 (six convolutions, batches of 50), on made-up
inputs. Each optimizer takes turns with the products and convolutions alone, which are the limit.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from measure import Number, interleave, main, ratios, timed
from products import training_products
from torch import Tensor, nn
from torch.nn import functional as F

from clbinn import optim
from clbinn.nn import MLP
from clbinn.nn.cnn import CNN

Optimizer = Callable[[Iterable[Any]], Any]

OPTIMIZERS: dict[str, Optimizer] = {
    "BayesBiNN": lambda params: optim.BayesBiNN(params, num_data=60_000, lr=1e-4, temperature=1e-10, seed=0),
    "STE": lambda params: optim.STE(params, seed=0),
    "Bop": lambda params: optim.Bop(params, seed=0),
    "PMF": lambda params: optim.PMF(params, seed=0),
    "Adam, real weights": lambda params: torch.optim.Adam(params, fused=True),
}

ROUNDS = {"Table 5": 5, "Table 8": 1}  # times as many: its steps are short, and it takes more for a steady median


def cases(quick: bool) -> dict[str, tuple[Callable[[], nn.Module], Tensor]]:
    """Networks and a batch of inputs for each."""
    if quick:
        return {
            "Table 5": (lambda: MLP(784, [32, 32, 32], 10, dropout=0.2), torch.randn(20, 784)),
            "Table 8": (lambda: CNN((3, 8, 8), 10, ((4,), (8,)), (16,)), torch.randn(10, 3, 8, 8)),
        }
    return {
        "Table 5": (lambda: MLP(784, [2048, 2048, 2048], 10, dropout=0.2), torch.randn(100, 784)),
        "Table 8": (lambda: CNN((3, 32, 32), 10), torch.randn(50, 3, 32, 32)),
    }


def training_step(net: nn.Module, opt: Any, x: Tensor, y: Tensor) -> Callable[[], Any]:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss.detach()

    return lambda: opt.step(closure)


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> list[Number]:
    note(f"Table 5: {ROUNDS['Table 5']} times as many rounds")
    numbers = []
    for table, (network, x) in cases(options.quick).items():
        y = torch.arange(len(x)) % 10
        limits: list[float] = []
        for name, make in OPTIMIZERS.items():
            net = network()
            contenders = {
                "step": timed(training_step(net, make(net.parameters()), x, y)),
                "products": timed(training_products(net, x)),
            }
            seconds = interleave(contenders, options.rounds * ROUNDS[table])
            step, products = ([1e3 * value for value in seconds[which]] for which in ("step", "products"))
            limits += products
            outside = [100 * (1 - share) for share in ratios(products, step)]
            numbers += [
                Number(f"{table}, step, {name}", "ms", step, products),
                Number(f"{table}, outside products, {name}", "%", outside),
            ]
        numbers.append(Number(f"{table}, products alone (the limit)", "ms", limits))
    return numbers


if __name__ == "__main__":
    main("networks", measure, rounds=5, takes=("threads",))
