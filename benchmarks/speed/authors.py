"""A checkout of the BayesBiNN authors' repository as a contender.

Their optimizer and network are imported from the checkout and used as `main_permute_mnist_CL.py` uses them, with its
default settings.
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from images import MEAN, STD
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from clbinn.errors import UserError

__all__ = ["Authors", "batches"]

NETWORK, OPTIMIZER = ("models", "MLP_CL_h100"), ("optimizers", "BayesBiNN")


class Authors:
    """Their network of Table 12 with their optimizer.

    Args:
        checkout: Folder of the repository.
        num_data: Number of training images.

    Raises:
        UserError: The folder does not hold them, or they can't be imported.
    """

    def __init__(self, checkout: Path, num_data: int) -> None:
        network, optimizer = _imported(checkout.expanduser().resolve())
        self.net: nn.Module = network(28 * 28, 10, 100, eps=1e-4, momentum=0.15, batch_affine=False)
        self.opt: Any = optimizer(
            self.net,
            train_set_size=num_data,
            lr=1e-3,
            betas=0.0,
            num_samples=1,
            lamda_init=10,
            lamda_std=0,
            temperature=1e-2,
            reweight=1.0,
        )

    def step(self, x: Tensor, y: Tensor) -> None:
        """One training step, with the loss and the accuracy that their loop takes of each batch."""

        def closure() -> tuple[Tensor, Tensor]:
            self.opt.zero_grad()
            outputs = self.net(x)
            return F.cross_entropy(outputs, y), outputs

        loss, outputs = self.opt.step(closure)
        loss.item()
        (outputs[0].argmax(1) == y).sum().item()

    def predict(self, x: Tensor, mc_samples: int) -> Tensor:
        """The mean prediction of one batch, with draws of its own."""
        self.net.eval()
        with torch.no_grad():
            one_probability = torch.sigmoid(2 * self.opt.state["lamda"])
            noises = [torch.bernoulli(one_probability) for _ in range(mc_samples)]
            return torch.stack(self.opt.get_mc_predictions(self.net, x, raw_noises=noises)).mean(0)


def batches(folder: Path, batch_size: int, permutation: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Training batches as they load them: torchvision's transforms for each image, then the permutation."""
    from torchvision import datasets, transforms

    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = datasets.MNIST(folder, train=True, transform=normalise)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True)

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for x, y in loader:
                yield x.flatten(1)[:, permutation], y

    return endless().__next__


def _imported(checkout: Path) -> tuple[Any, Any]:
    for module, _ in (NETWORK, OPTIMIZER):
        if not (checkout / module).is_dir():
            raise UserError(
                f"--baseline {checkout} has no folder {module}: give a checkout of team-approx-bayes/BayesBiNN"
            )
    sys.path.insert(0, str(checkout))
    try:
        network, optimizer = (getattr(import_module(module), name) for module, name in (NETWORK, OPTIMIZER))
    except (ImportError, AttributeError) as error:
        raise UserError(f"--baseline {checkout} can't be used: {error}") from error
    finally:
        sys.path.remove(str(checkout))
    return network, optimizer
