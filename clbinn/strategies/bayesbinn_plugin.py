"""Learning and prediction with a binary optimizer inside any Avalanche strategy.

The plugin opens the sampling block around forward and backward, carries the prior, restarts the learning-rate schedule,
and replaces the outputs of evaluation by the log-probabilities of the mean prediction (Eq. 26).
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from avalanche.models.utils import avalanche_forward, is_multi_task_module
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from clbinn import optim
from clbinn.benchmarks.online import Parts, training_set, whole_experience
from clbinn.checks import check_at_least, check_choice, check_count
from clbinn.errors import RunError
from clbinn.nn.batch_norm import BatchNormStatistics, batch_norms, get_statistics, set_statistics
from clbinn.nn.many import ByteInputs
from clbinn.optim._noise import Noise
from clbinn.optim.binary import BinaryOptimizer
from clbinn.optim.schedules import cosine_decay
from clbinn.predict import Average, predict_log_proba, statistics_under_draws
from clbinn.seeding import derive_seed
from clbinn.strategies._loop import listeners
from clbinn.strategies._resident import resident_inputs

__all__ = ["BatchNorm", "BayesBiNNPlugin", "is_weight"]

BatchNorm = Literal["running", "task", "batch"]

_LEARNING_RATE = "Likely the learning rate is too large, or the temperature too small."


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is binary by default: matrices and kernels that learn; biases and frozen ones stay real."""
    return parameter.ndim >= 2 and parameter.requires_grad


class BayesBiNNPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Learning and prediction with a binary optimizer, for any Avalanche strategy that holds one.

    Avalanche puts all parameters of the model into the optimizer; this plugin takes out again those that were not
    handed to it. New parameters (a head that appears with a task) join where `binary` says so.

    Args:
        mc_samples: C of the mean prediction, ≥ 0; 0 is the mode.
        batch_norm: Whose statistics normalise at evaluation. `running`: the newest task's, as in the paper's code.
            `task`: re-estimated with posterior samples after each task, and used for that task's test set (needs the
            task's identity at test time). `batch`: those of the test batch.
        average: `probabilities` (Eq. 26) or `logits`.
        carry_prior: Whether λ0 becomes the previous task's λ; False leaves it as it was made.
        lr_end: Final learning rate of a cosine schedule over the epochs of each task; None keeps the rate.
        num_data: `experience` sets N to the size of each experience's training set; `optimizer` leaves it.
        binary: (name, parameter) → whether a parameter that appears later is binary.
        real_optimizer: Makes an optimizer for the trainable parameters that are not binary; None leaves them as they
            are.
        seed: Of the weight draws in evaluation; they do not touch the stream of training.

    Raises:
        ValueError: An option out of its range.
        TypeError: The strategy's optimizer is no binary optimizer.
    """

    supports_distributed = False

    def __init__(
        self,
        mc_samples: int = 100,
        batch_norm: BatchNorm = "running",
        average: Average = "probabilities",
        carry_prior: bool = True,
        lr_end: float | None = None,
        num_data: Literal["experience", "optimizer"] = "optimizer",
        binary: Callable[[str, nn.Parameter], bool] = is_weight,
        real_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_count("mc_samples", mc_samples, 0)
        if lr_end is not None:
            check_at_least("lr_end", lr_end, 0)
        check_choice("batch_norm", batch_norm, get_args(BatchNorm))
        check_choice("average", average, get_args(Average))
        check_choice("num_data", num_data, ("experience", "optimizer"))
        self.mc_samples, self.batch_norm, self.average = mc_samples, batch_norm, average
        self.carry_prior, self.lr_end, self.num_data = carry_prior, lr_end, num_data
        self.binary, self.make_real_optimizer, self.seed = binary, real_optimizer, seed
        self.real_optimizer: torch.optim.Optimizer | None = None
        self.tasks_trained = 0
        self._binary: dict[str, nn.Parameter] = {}
        self._known: set[str] = set()
        self._learned: set[str] = set()
        self._epochs = 1
        self._parts = Parts()
        self._real_state: dict[str, Any] | None = None
        self._task_statistics: dict[int, BatchNormStatistics] = {}
        self._running: BatchNormStatistics | None = None
        self._predictions: Tensor | None = None

    # --- training --------------------------------------------------------------------------------------------------

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Remember which parameters the optimizer was given, before Avalanche hands it all."""
        if not self._known:
            self.adopt(strategy)

    def adopt(self, strategy: Any) -> None:
        """Take the optimizer's parameters as they are now for the binary ones of the model as it is now."""
        claimed = {id(p) for p in _binary_optimizer(strategy).parameters()}
        named = dict(strategy.model.named_parameters())
        self._known = set(named)
        self._binary = {name: p for name, p in named.items() if id(p) in claimed}

    def claim(self, strategy: Any) -> None:
        """Give the optimizer its own parameters back: Avalanche put all of the model into it at the start of a task."""
        self._claim(_binary_optimizer(strategy), dict(strategy.model.named_parameters()))

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Set up the task: parameters, prior, N, schedule."""
        optimizer = _binary_optimizer(strategy)
        self.claim(strategy)
        optimizer.discard()  # what an exception may have left
        if not self._parts.begin(strategy.experience):
            return
        if self.carry_prior and self.tasks_trained and isinstance(optimizer, optim.BayesBiNN):
            optimizer.carry_prior([p for name, p in self._binary.items() if name in self._learned])
        if self.num_data == "experience":
            num_data = len(training_set(strategy))
            for group in optimizer.param_groups:
                group["num_data"] = num_data
        self._epochs = strategy.train_epochs

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """The learning rate of this epoch: the cosine starts anew with each task."""
        if {id(p) for p in strategy.optimizer.parameters()} != {id(p) for p in self._binary.values()}:
            self.claim(strategy)  # a plugin after this one handed all to the optimizer again
        if self.lr_end is not None:
            for group in strategy.optimizer.param_groups:
                start = group.setdefault("initial_lr", group["lr"])
                group["lr"] = cosine_decay(start, self.lr_end, strategy.clock.train_exp_epochs / self._epochs)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Put a relaxed sample into the model."""
        if self.real_optimizer is not None:
            self.real_optimizer.zero_grad()
        if strategy.optimizer.sampling:  # an exception left the last one open
            strategy.optimizer.restore()
        strategy.optimizer.open_sample()

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Collect the sample's gradient, and draw the other S - 1."""
        optimizer = strategy.optimizer
        _check_loss(strategy, strategy.loss)
        if len(self._learned) < len(self._binary):  # a head of a task to come has no gradient, and keeps its prior
            self._learned |= {name for name, p in self._binary.items() if p.grad is not None}
        optimizer.close_sample(restore=False)  # the step that follows does it
        samples = optimizer.param_groups[0].get("num_samples", 1)
        for _ in range(samples - 1):
            with optimizer.sampled_params():
                strategy.mb_output = strategy.forward()
                loss = strategy.criterion()
                loss.backward()
                _check_loss(strategy, loss)
            strategy.loss = strategy.loss.detach() + loss.detach()
        if samples > 1:
            strategy.loss = strategy.loss / samples

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        """Step the parameters that stay real."""
        if self.real_optimizer is not None:
            samples = strategy.optimizer.param_groups[0].get("num_samples", 1)
            for group in self.real_optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.div_(samples)
            self.real_optimizer.step()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Stop at a posterior that is not finite any more."""
        if not strategy.optimizer.finite:
            raise RunError(f"{_place(strategy)}: what the optimizer learned is not finite any more. {_LEARNING_RATE}")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Count the task, and gather its statistics for `batch_norm="task"`."""
        if not self._parts.end(strategy.experience):
            return
        self.tasks_trained += 1
        if self.batch_norm == "task":
            self._task_statistics[whole_experience(strategy.experience).current_experience] = self._estimate(strategy)

    # --- evaluation ------------------------------------------------------------------------------------------------

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """As before training: an evaluation may come first, and give the model new heads."""
        self.before_training(strategy)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Put this task's statistics in place; predict all of a resident test set at once."""
        self.after_eval_exp(strategy)  # an exception may have left the last one open
        if strategy.optimizer.sampling:
            strategy.optimizer.restore()
        self._follow(strategy)
        statistics = self._task_statistics.get(whole_experience(strategy.experience).current_experience)
        if statistics is not None:
            self._running = get_statistics(strategy.model)
            set_statistics(strategy.model, statistics)
        plain = not (is_multi_task_module(strategy.model) or _has_own_forward(strategy) or _others_see_inputs(strategy))
        inputs = resident_inputs(strategy.dataloader, strategy.model) if plain else None
        if inputs is not None:
            self._predictions = self._predict(strategy, inputs, strategy.eval_mb_size)

    def after_eval_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the mode's output by the log-probabilities of the mean prediction."""
        if self._predictions is not None:
            strategy.mb_output, self._predictions = torch.tensor_split(self._predictions, [len(strategy.mb_x)])
        elif self.mc_samples or self.batch_norm == "batch":
            strategy.mb_output = self._predict(strategy, strategy.mb_x, len(strategy.mb_x), _forward(strategy))

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """The statistics of training again."""
        self._predictions = None
        if self._running is not None:
            set_statistics(strategy.model, self._running)
            self._running = None

    def _predict(
        self,
        strategy: Any,
        inputs: Tensor | ByteInputs,
        batch_size: int,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Log-probabilities; the draws depend on the seed and the tasks trained, not on how the data are cut."""
        return predict_log_proba(
            strategy.model,
            strategy.optimizer,
            inputs,
            self.mc_samples,
            average=self.average,
            batch_size=batch_size,
            batch_norm="batch" if self.batch_norm == "batch" else "running",
            seed=derive_seed(self.seed, "evaluation", self.tasks_trained),
            forward=forward,
        )

    # --- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the plugin learned beside the optimizer: plain tensors and numbers."""
        return {
            "tasks_trained": self.tasks_trained,
            "learned": sorted(self._learned),
            "task_statistics": {
                task: {name: list(pair) for name, pair in statistics.items()}
                for task, statistics in self._task_statistics.items()
            },
            "real_optimizer": self._real_state if self.real_optimizer is None else self.real_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.tasks_trained, self._learned = state["tasks_trained"], set(state["learned"])
        self._task_statistics = {
            int(task): {name: (mean, variance) for name, (mean, variance) in statistics.items()}
            for task, statistics in state["task_statistics"].items()
        }
        if self.real_optimizer is None:
            self._real_state = state["real_optimizer"]  # for when it is made
        elif state["real_optimizer"] is not None:
            self.real_optimizer.load_state_dict(state["real_optimizer"])

    # --- inner -----------------------------------------------------------------------------------------------------

    def _claim(self, optimizer: BinaryOptimizer, named: dict[str, nn.Parameter]) -> None:
        """Give the optimizer its parameters back: those it had, those that replaced them, and new binary ones."""
        binary = {
            name: p
            for name, p in named.items()
            if name in self._binary or (name not in self._known and self.binary(name, p))
        }
        replaced = {p: self._binary[name] for name, p in binary.items() if self._binary.get(name, p) is not p}
        optimizer.set_parameters(list(binary.values()), replaced)
        real = [p for name, p in named.items() if name not in binary and p.requires_grad]
        self._known, self._binary = set(named), binary
        if self.make_real_optimizer is None or not real:
            return
        if self.real_optimizer is None:
            self.real_optimizer = self.make_real_optimizer(real)
            if self._real_state is not None:
                self.real_optimizer.load_state_dict(self._real_state)
                self._real_state = None
            return
        there = {id(p) for group in self.real_optimizer.param_groups for p in group["params"]}
        current = {id(p) for p in real}
        for group in self.real_optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) in current]
        self.real_optimizer.param_groups[0]["params"] += [p for p in real if id(p) not in there]

    def _follow(self, strategy: Any) -> None:
        """Predict with the parameters that the model has now: a classifier may grow in evaluation too."""
        named = dict(strategy.model.named_parameters())
        if any(named.get(name, p) is not p for name, p in self._binary.items()):
            self._claim(_binary_optimizer(strategy), {name: p for name, p in named.items() if name in self._known})

    def _estimate(self, strategy: Any, draws: int = 10, inputs: int = 10_000) -> BatchNormStatistics:
        """Statistics of this task's training inputs under draws from the posterior."""
        if not batch_norms(strategy.model):
            return {}
        seen = 0
        noise = Noise(derive_seed(self.seed, "batch_norm", self.tasks_trained), strategy.device)
        batches = []
        for batch in strategy.dataloader:
            batches.append((batch[0].to(strategy.device), batch[-1].to(strategy.device)))
            seen += len(batch[0])
            if seen >= inputs:
                break
        pieces = math.ceil(seen / max(len(x) for x, _ in batches))  # of one size, for all count the same
        columns = (torch.cat(column).tensor_split(pieces) for column in zip(*batches, strict=True))
        batches = list(zip(*columns, strict=True))
        aware = hasattr(strategy.experience, "task_labels")

        def forward(batch: tuple[Tensor, Tensor]) -> object:
            return avalanche_forward(strategy.model, *batch) if aware else strategy.model(batch[0])

        return statistics_under_draws(
            strategy.model, strategy.optimizer, batches, forward, draws if self.mc_samples else 0, noise
        )


def _binary_optimizer(strategy: Any) -> BinaryOptimizer:
    optimizer = strategy.optimizer
    if not isinstance(optimizer, BinaryOptimizer):
        raise TypeError(f"the strategy needs a binary optimizer such as clbinn.optim.BayesBiNN, got {type(optimizer)}")
    return optimizer


def _check_loss(strategy: Any, loss: Tensor) -> None:
    """Raise RunError for a loss that is not finite, before it gets into the posterior; a GPU's is not waited for."""
    if loss.device.type != "cpu" or math.isfinite(loss.item()):
        return
    seen = bool(strategy.mb_x.isfinite().all())
    cause = _LEARNING_RATE if seen else "The inputs of this batch hold numbers that are not finite: look at the data."
    step = strategy.clock.train_epoch_iterations + 1
    raise RunError(f"{_place(strategy)}, step {step}: the loss is {loss.item()}. {cause}")


def _place(strategy: Any) -> str:
    return f"task {strategy.experience.current_experience + 1}, epoch {strategy.clock.train_exp_epochs + 1}"


def _forward(strategy: Any) -> Callable[[Tensor], Tensor] | None:
    """How the mini-batch gets its logits, where that is more than a call of the model; else None."""
    if _has_own_forward(strategy):
        return lambda _: strategy.forward()  # of the whole mini-batch, which it holds
    if not is_multi_task_module(strategy.model):
        return None
    labels = strategy.mb_task_id
    return lambda x: avalanche_forward(strategy.model, x, labels)


def _has_own_forward(strategy: Any) -> bool:
    return type(strategy).forward is not SupervisedTemplate.forward


def _others_see_inputs(strategy: Any) -> bool:
    """Whether a plugin may put other inputs in the place of the loader's."""
    plugins = [plugin for plugin in strategy.plugins if not isinstance(plugin, EvaluationPlugin)]
    return any(listeners(plugins, f"before_eval_{stage}") for stage in ("iteration", "forward"))
