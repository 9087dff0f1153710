"""Network, optimizer and schedules of a supervised experiment, and the one step that they make."""

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clbinn.errors import RecipeError
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.paper import Method, Pretraining, ScheduleSpec
from clbinn.experiments.supervised_data import Experiment
from clbinn.nn.build import build_model, check_model
from clbinn.nn.lrnet import to_stochastic
from clbinn.optim.binary import BinaryOptimizer
from clbinn.seeding import derive_seed
from clbinn.targets import check_options, import_target

__all__ = ["Learner", "build_learner", "build_optimizer", "build_schedules", "check_method"]


@dataclass
class Learner:
    """A network with what trains it.

    Attributes:
        loss: (outputs, targets) → mean loss.
    """

    network: nn.Module
    optimizer: Any
    schedules: list[tuple[str, Any]] = field(default_factory=list)
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One update: the mean loss and the outputs of the last sample, both without gradient."""
        outputs: list[Tensor] = []

        def closure() -> Tensor:
            outputs[:] = [self.network(x)]
            loss = self.loss(outputs[0], y)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        if not isinstance(self.optimizer, BinaryOptimizer):
            self.optimizer.zero_grad()
        loss: Tensor = self.optimizer.step(closure)
        return loss, outputs[0].detach()

    def schedule(self, unit: str) -> None:
        """Move the schedules that count this unit."""
        for counted, schedule in self.schedules:
            if counted == unit:
                schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedules": [schedule.state_dict() for _, schedule in self.schedules],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for (_, schedule), saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def build_learner(
    method: Method,
    data: Experiment,
    seed: int,
    device: str,
    report: Callable[[str], None] = lambda text: None,
    interrupts: Interrupts | None = None,
    pretrain: bool = True,
) -> Learner:
    """What a method says, ready to train on the data.

    Args:
        method: Network, optimizer, schedules.
        data: Gives the sizes, and what is trained on before where the method says so.
        seed: Of the optimizer, and of that training.
        device: Where the network is.
        report: Gets a line of progress now and then.
        interrupts: Stops that training; nothing of it is saved.
        pretrain: Whether to train before as the method says; a state that is loaded afterwards makes it needless.

    Raises:
        RecipeError: Network, optimizer or schedule can't be made from their settings.
        Interrupted: A signal came while it was trained before.
    """
    if method.pretraining is None or not pretrain:
        network = build_model(method.model, data.input_shape, data.num_classes).to(device)
    else:
        network = _pretrained(method, method.pretraining, data, seed, device, report, interrupts or Interrupts())
    num_data = method.data_factor * len(data.train)
    optimizer = build_optimizer(method, network, num_data, seed)
    steps = max(len(data.train) // method.train.batch_size, 1)
    return Learner(network, optimizer, build_schedules(method.schedules, optimizer, method.train.epochs, steps))


def check_method(method: Method) -> None:
    """Everything of a method that can be checked before data are loaded.

    Raises:
        RecipeError: Network, optimizer or schedules don't take their settings, or a pretraining has nothing to start.
    """
    check_model(method.model)
    _optimizer_options(method, 1.0, 0)
    for spec in method.schedules:
        _schedule_options(spec, 1)
    if method.pretraining is not None:
        _stochastic(method)


def build_optimizer(method: Method, network: nn.Module, num_data: float, seed: int) -> Any:
    """The optimizer of all the network's parameters; `num_data` and `seed` are given where it takes them."""
    target, options = _optimizer_options(method, num_data, seed)
    try:
        return target(network.parameters(), **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{method.name}: {method.target}: {error}") from None


def _optimizer_options(method: Method, num_data: float, seed: int) -> tuple[Any, dict[str, Any]]:
    target = import_target(method.target)
    takes = signature(target).parameters
    own = {"num_data": num_data, "seed": derive_seed(seed, "optimizer")}
    options = {name: value for name, value in own.items() if name in takes} | method.options
    check_options(target, options, "options", given=("params",))
    return target, options


def build_schedules(specs: list[ScheduleSpec], optimizer: Any, epochs: int, steps: int) -> list[tuple[str, Any]]:
    """(unit, schedule) of each; `total` becomes the length of the training in that unit unless it is given."""
    schedules: list[tuple[str, Any]] = []
    for spec in specs:
        target, options = _schedule_options(spec, epochs * (steps if spec.unit == "iteration" else 1))
        try:
            schedules.append((spec.unit, target(optimizer, **options)))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"schedules: {spec.target}: {error}") from None
    return schedules


def _schedule_options(spec: ScheduleSpec, total: int) -> tuple[Any, dict[str, Any]]:
    target = import_target(spec.target, "schedules")
    options = ({"total": total} if "total" in signature(target).parameters else {}) | spec.options
    check_options(target, options, "schedules.options", given=("optimizer",))
    return target, options


def _stochastic(method: Method) -> str:
    """The kind of random weights that a pretrained network is made into."""
    kind = str((method.model.model_extra or {}).get("stochastic", "none"))
    if kind == "none":
        raise RecipeError(
            f"{method.name}: pretraining is for networks with `stochastic: binary` or `ternary`, "
            "such as table11/mnist/lrnet"
        )
    return kind


def _pretrained(
    method: Method,
    pretraining: Pretraining,
    data: Experiment,
    seed: int,
    device: str,
    report: Callable[[str], None],
    interrupts: Interrupts,
) -> nn.Module:
    """LR-net's start: the same network trained with real weights by Adam, then made stochastic."""
    kind = _stochastic(method)
    settings = {key: value for key, value in (method.model.model_extra or {}).items() if key != "stochastic"}
    model = type(method.model)(kind=method.model.kind, **settings)
    network = build_model(model, data.input_shape, data.num_classes).to(device)
    learner = Learner(network, torch.optim.Adam(network.parameters(), lr=pretraining.lr, fused=True))
    network.train()
    for epoch in range(1, pretraining.epochs + 1):
        order = derive_seed(seed, "pretraining", epoch)
        for x, y in data.batches(method.train.batch_size, order, device, method.augment):
            learner.step(x, y)
            if interrupts.pending:
                interrupts.leave(f"{method.name} seed {seed}: stopped before its start was learned, which begins again")
        report(f"{method.name} seed {seed}: real network, epoch {epoch}/{pretraining.epochs}")
    return to_stochastic(network, ternary=kind == "ternary")
