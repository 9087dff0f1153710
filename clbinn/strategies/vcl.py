"""Variational continual learning (Nguyen, Li, Bui, Turner 2018).

Every weight has a Gaussian posterior N(m, v). The loss of a mini-batch of task t is the cross-entropy averaged over S
weight samples plus KL(q_t ‖ q_{t-1}) / N_t, where q_{t-1}, the posterior of the task before, is the prior. With a
coreset, some samples of each task are kept out of its training, and a copy of the posterior is trained on all of them
before it predicts; the copy is then dropped.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from avalanche.models.utils import avalanche_forward, is_multi_task_module
from torch import Generator, Tensor, nn
from torch.optim import Adam

from clbinn.benchmarks.online import training_set, whole_experience
from clbinn.errors import UserError
from clbinn.strategies._data import Samples, reader
from clbinn.strategies._gaussian import Draw, gaussian_layers, is_chain, learned_layers, make_gaussian, put_values
from clbinn.strategies._random import seeded
from clbinn.strategies.coreset import k_centre, random_choice
from clbinn.strategies.fisher import shares_weights
from clbinn.strategies.naive import Naive

__all__ = ["VCL", "log_mean_probability"]

SAMPLES_AT_ONCE = 10


def log_mean_probability(logits: Tensor) -> Tensor:
    """Log of the mean probability, ln (1/S) Σ_s softmax(logits_s): `(S, n, classes)` → `(n, classes)`."""
    return torch.logsumexp(logits.log_softmax(-1), 0) - math.log(len(logits))


class VCL(Naive):
    """Variational continual learning with mean-field Gaussian weights.

    The network's linear layers become Gaussian, with the network's weights as means.

    Args:
        model: A network whose parameters are all in linear layers.
        num_samples: S, weight samples for each training mini-batch.
        mc_samples: C, weight samples for prediction.
        local_reparameterisation: Draw pre-activations instead of weights: the same loss with less noise.
        init_log_variance: ln v before the first task.
        prior_variance: Variance of the first prior, which has mean 0.
        init_epochs: Epochs of maximum likelihood on the first task that find its initial means; None is as many as
            `train_epochs`, 0 leaves the network's own weights.
        coreset_size: Samples set aside from each task; 0 is no coreset.
        coreset: How they are chosen: at `random`, or as greedy centres of the inputs (`k_centre`).
        coreset_epochs: Epochs on the coresets before prediction.
        **strategy: Arguments of `Naive`.

    Raises:
        UserError: An option is out of its range, or the network has parameters outside linear layers or shares them.
    """

    adapted_dataset: Any

    def __init__(
        self,
        *,
        model: nn.Module,
        num_samples: int = 10,
        mc_samples: int = 100,
        local_reparameterisation: bool = False,
        init_log_variance: float = -6.0,
        prior_variance: float = 1.0,
        init_epochs: int | None = None,
        coreset_size: int = 0,
        coreset: Literal["random", "k_centre"] = "random",
        coreset_epochs: int = 100,
        seed: int = 0,
        device: str | torch.device = "cpu",
        **strategy: Any,
    ) -> None:
        counts = {"num_samples": num_samples, "mc_samples": mc_samples, "init_epochs": init_epochs}
        _check(counts | {"coreset_size": coreset_size, "coreset_epochs": coreset_epochs}, coreset)
        if not 0 < prior_variance < math.inf:
            raise UserError(f"VCL: prior_variance must be greater than 0 and finite, not {prior_variance}.")
        if not math.isfinite(init_log_variance):
            raise UserError(f"VCL: init_log_variance must be finite, not {init_log_variance}.")
        if shares_weights(model):
            raise UserError("VCL keeps a posterior for each layer, and two layers of this network share a weight.")
        self.draw = Draw(local=local_reparameterisation)
        self._prior = init_log_variance, prior_variance
        super().__init__(model=make_gaussian(model, self.draw, *self._prior), seed=seed, device=device, **strategy)
        self.num_samples, self.mc_samples = num_samples, mc_samples
        self.init_epochs = self.train_epochs if init_epochs is None else init_epochs
        self.coreset_size, self.coreset, self.coreset_epochs = coreset_size, coreset, coreset_epochs
        self.coresets: dict[int, dict[str, Tensor]] = {}
        self.generator = seeded(self.device, seed, "training")
        self._started = False
        self._tuned: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None  # from which values, and to which
        self._logits: Tensor | None = None

    # --- the loss ---------------------------------------------------------------------------------------------------

    def forward(self) -> Tensor:
        """Logarithm of the predictive distribution, `(n, classes)`."""
        if self.is_training:
            self._logits = self._sampled_logits(self.mb_x, self._task_labels(), self.num_samples, self.generator)
            return log_mean_probability(self._logits.detach())
        # The same weights for every mini-batch; training's noise is left alone.
        generator = seeded(self.device, self.seed, "evaluation")
        sums = []
        for count in _portions(self.mc_samples):
            logits = self._sampled_logits(self.mb_x, self._task_labels(), count, generator)
            sums.append(log_mean_probability(logits) + math.log(count))
        return torch.logsumexp(torch.stack(sums), 0) - math.log(self.mc_samples)

    def criterion(self) -> Tensor:
        """In training, the expected loss plus KL / N; in evaluation, that of the prediction."""
        if not self.is_training or self._logits is None:
            loss: Tensor = super().criterion()
            return loss
        return self._variational_loss(self._logits, self.mb_y, len(training_set(self)))

    def kl(self) -> Tensor:
        """KL(q ‖ prior) in nats, of all layers that were learned so far."""
        return sum((layer.kl() for layer in learned_layers(self.model)), torch.zeros((), device=self.device))

    def _variational_loss(self, logits: Tensor, y: Tensor, num_data: int) -> Tensor:
        loss: Tensor = self._criterion(logits.flatten(0, 1), y.repeat(len(logits)))
        return loss + self.kl() / num_data

    def _sampled_logits(self, x: Tensor, task: Tensor | None, samples: int, generator: Generator) -> Tensor:
        rows, folded = len(x), not is_chain(self.model)
        if folded:  # the inputs may be used again, beside what the first layer made of them
            x, task = x.repeat(samples, *[1] * (x.ndim - 1)), None if task is None else task.repeat(samples)
        with self.draw.of(samples, generator, folded):
            logits: Tensor = avalanche_forward(self.model, x, task)
        return logits.view(samples, rows, -1)

    def _task_labels(self) -> Tensor | None:
        """Task labels of the mini-batch, `(n,)`; None where the stream has none."""
        return self.mbatch[-1] if len(self.mbatch) > 2 else None

    # --- the course of a task ---------------------------------------------------------------------------------------

    def model_adaptation(self, model: nn.Module | None = None) -> nn.Module:
        """Let heads grow as Avalanche does, and make what is new Gaussian."""
        model = self.model if model is None else model
        before = gaussian_layers(model)
        model = super().model_adaptation(model)
        make_gaussian(model, self.draw, *self._prior)
        for name, layer in gaussian_layers(model).items():
            if name in before and layer is not before[name]:
                put_values(layer, before[name].state_dict())
            layer.draw = self.draw  # a copy of the network, as GDumb trains, has another
        grown: nn.Module = model.to(self.device)
        return grown

    def train_dataset_adaptation(self, **kwargs: Any) -> None:
        """The task's data without its coreset."""
        super().train_dataset_adaptation(**kwargs)
        if self.coreset_size:
            self._set_coreset_aside()

    def training_epoch(self, **kwargs: Any) -> None:
        """One epoch; before the very first, the means are found."""
        if not self._started:
            self._fit_means()
            self._started = True
        super().training_epoch(**kwargs)

    def _after_task(self) -> None:
        super()._after_task()
        for layer in learned_layers(self.model):
            layer.carry_prior()

    def _train_cleanup(self) -> None:
        super()._train_cleanup()
        self._logits = None  # a part of a graph, which can't be copied

    def _fit_means(self) -> None:
        """Maximum likelihood on the first task, without noise."""
        means = [mean for layer in gaussian_layers(self.model).values() for _, mean in layer.means()]
        optimizer = Adam(means, lr=self.optimizer.param_groups[0]["lr"])
        epoch = getattr(self.dataloader, "epoch", None)
        for _ in range(self.init_epochs):
            for batch in self.dataloader:
                self.mbatch = batch
                self._unpack_minibatch()
                optimizer.zero_grad()
                self._criterion(avalanche_forward(self.model, self.mb_x, self._task_labels()), self.mb_y).backward()
                optimizer.step()
        if epoch is not None:  # a run that goes on inside the first epoch looks for its order
            self.dataloader.epoch = epoch

    # --- coresets ---------------------------------------------------------------------------------------------------

    def _set_coreset_aside(self) -> None:
        data, task = self.adapted_dataset, self.experience.current_experience
        if whole_experience(self.experience) is not self.experience:
            raise UserError("VCL: coresets are chosen from whole tasks, and this stream gives them part by part.")
        if self.coreset_size >= len(data):
            raise UserError(
                f"VCL: a coreset of {self.coreset_size} leaves nothing of task {task + 1} with its {len(data)} samples."
            )
        read = reader(data, self.device)
        if self.coreset == "k_centre":
            chosen = k_centre(read(torch.arange(len(data)))[0], self.coreset_size)
        else:
            chosen = random_choice(len(data), self.coreset_size, seeded("cpu", self.seed, "coreset", task))
        self._tuned = None
        self.coresets[task] = dict(zip(("x", "y", "task"), read(chosen), strict=True))
        rest = torch.ones(len(data), dtype=torch.bool)
        rest[chosen] = False
        self.adapted_dataset = data.subset(rest.nonzero().flatten().tolist())

    def eval(self, exp_list: Any, **kwargs: Any) -> dict[str, Any]:
        """Evaluate; with coresets, the copy that was trained on them."""
        with self._tuned_copy() if self.coresets else nullcontext():
            results: dict[str, Any] = super().eval(exp_list, **kwargs)
        return results

    @contextmanager
    def _tuned_copy(self) -> Iterator[None]:
        """The network holds the posterior trained on the coresets inside the block, its own again after it."""
        own = copy.deepcopy(self.model.state_dict())
        try:
            if self._tuned is None or not _equal(self._tuned[0], own):
                self._tune()
                self._tuned = own, copy.deepcopy(self.model.state_dict())
            put_values(self.model, self._tuned[1])
            yield
        finally:
            put_values(self.model, own)

    @torch.enable_grad()
    def _tune(self) -> None:
        for layer in learned_layers(self.model):
            layer.carry_prior()
        generator = seeded(self.device, self.seed, "coresets' training")
        data = [(kept["x"], kept["y"], kept["task"]) for kept in self.coresets.values()]
        num_data = sum(len(y) for _, y, _ in data)
        if not is_multi_task_module(self.model):  # else a mini-batch must be of one task
            x, y, task = (torch.cat(column) for column in zip(*data, strict=True))
            data = [(x, y, task)]
        optimizer = Adam(self.model.parameters(), lr=self.optimizer.param_groups[0]["lr"], fused=True)
        training = self.model.training
        self.model.train()
        for _ in range(self.coreset_epochs):
            for x, y, task in self._coreset_batches(data, generator):
                optimizer.zero_grad()
                logits = self._sampled_logits(x, task, self.num_samples, generator)
                self._variational_loss(logits, y, num_data).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        self.model.zero_grad()
        self.model.train(training)

    def _coreset_batches(self, data: list[Samples], generator: Generator) -> Iterator[Samples]:
        for x, y, task in data:
            order = torch.randperm(len(y), generator=generator, device=generator.device)
            for index in torch.split(order, self.train_mb_size):
                yield x[index], y[index], task[index]

    # --- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the model's own state does not hold: coresets and noise."""
        coresets = {str(task): dict(kept) for task, kept in self.coresets.items()}
        return {"started": self._started, "coresets": coresets, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._started, self._tuned = state["started"], None
        self.coresets = {int(task): dict(kept) for task, kept in state["coresets"].items()}
        self.generator.set_state(state["generator"].cpu())


def _portions(samples: int) -> list[int]:
    """The number of samples in parts of at most `SAMPLES_AT_ONCE`."""
    return [min(SAMPLES_AT_ONCE, samples - done) for done in range(0, samples, SAMPLES_AT_ONCE)]


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states hold the same numbers."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _check(counts: dict[str, int | None], coreset: str) -> None:
    for name, value in counts.items():
        low = 1 if name.endswith("samples") else 0
        if value is not None and value < low:
            raise UserError(f"VCL: {name} must be at least {low}, not {value}.")
    if coreset not in ("random", "k_centre"):
        raise UserError(f"VCL: coreset must be random or k_centre, not {coreset}.")
