"""Networks with one output layer per task, for streams that tell the task at test time."""

import copy
from typing import Any

from avalanche.models import MultiTaskModule
from torch import Tensor, nn

__all__ = ["MultiHead"]


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    """A body shared by all tasks and, for each task label, a head of its own that appears with the task.

    Args:
        net: A network with its layers in `net.layers` (such as `clbinn.nn.MLP`). The layers before the last linear one
            become the body; the last linear one and what follows it is copied, freshly initialised, for each head. Its
            `logit_scale`, if it has one, is kept.

    Raises:
        ValueError: The network has no `layers`, or no linear layer among them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        layers = list(getattr(net, "layers", []))
        last = max((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), default=None)
        if last is None:
            raise ValueError(f"a multi-head network needs `layers` with a linear one among them; {type(net)} has none")
        self.body = nn.Sequential(*layers[:last])
        self.heads = nn.ModuleDict()
        self._template = [nn.Sequential(*layers[last:])]  # in a list, so that it is no submodule
        self.max_class_label = layers[last].out_features
        self.logit_scale = getattr(net, "logit_scale", 1.0)

    def adaptation(self, experience: Any) -> None:
        """Make the heads of the task labels that are new."""
        super().adaptation(experience)
        for label in sorted(set(experience.task_labels)):
            if str(label) not in self.heads:
                head = copy.deepcopy(self._template[0]).to(self._adaptation_device)
                for layer in head.children():
                    if isinstance(layer, nn.Linear):
                        layer.reset_parameters()
                self.heads[str(label)] = head

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        """(batch, …) → logits (batch, classes) of one task's head."""
        head = self.heads.get_submodule(str(task_label))
        out: Tensor = head(self.body(x))
        return out * self.logit_scale
