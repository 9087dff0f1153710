"""What Avalanche's plugins know, as plain values; they have no `state_dict` of their own.

`_STATE` names the attributes of each class that change in a run. Other classes are met inside them: importances
(`ParamData`), the teacher of LwF, stored samples. Nothing else is ever made from a checkpoint.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["holds_inside_task", "load", "state"]

_STATE: dict[str, tuple[str, ...]] = {
    "EWCPlugin": ("saved_params", "importances"),
    "SynapticIntelligencePlugin": ("ewc_data", "syn_data"),
    "MASPlugin": ("params", "importance"),
    "LwFPlugin": ("lwf",),
    "LearningWithoutForgetting": ("prev_model", "expcount", "prev_classes_by_task"),
    "GEMPlugin": ("memory_x", "memory_y", "memory_tid"),
    "AGEMPlugin": ("buffers",),
    "GDumbPlugin": ("init_model", "storage_policy"),
    "ReplayPlugin": ("storage_policy",),
    "ExperienceBalancedBuffer": ("buffer_groups", "_num_exps"),
    "ClassBalancedBuffer": ("buffer_groups", "seen_classes"),
    "ReservoirSamplingBuffer": ("max_size", "_buffer_weights", "_buffer"),
}
_AT_TASK_END = {"GDumbPlugin"}  # when a task begins it takes in the task's data and starts a new network
_PLAIN = (type(None), bool, int, float, str, Tensor)


class _UnknownError(Exception):
    """No rule here covers this value."""


def state(plugin: Any) -> dict[str, Any] | None:
    """The plugin's state in nested dicts and lists of plain values.

    Returns:
        None if the plugin isn't one of those known here, or holds what can't be stored: samples with transforms, a
        storage policy of another kind.
    """
    try:
        return _encode(plugin) if _known(plugin) else None
    except (_UnknownError, KeyError):
        return None


def holds_inside_task(plugin: Any) -> bool:
    """Whether a run can go on inside a task with what `state` gave there, and not only behind the task's last epoch."""
    return not _known(plugin) or type(plugin).__name__ not in _AT_TASK_END


def load(plugin: Any, saved: dict[str, Any], strategy: Any) -> None:
    """Put back what `state` gave.

    Args:
        plugin: A new plugin with the same settings.
        saved: What `state` gave.
        strategy: The strategy it belongs to, whose network and device are those of the run.
    """
    _decode(saved, plugin, strategy)


def _known(value: Any) -> bool:
    return type(value).__name__ in _STATE and type(value).__module__.startswith("avalanche.")


def _encode(value: Any) -> Any:
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.training.utils import ParamData

    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_encode(item) for item in value]}
    if isinstance(value, set):
        items = [int(item) for item in value]
        if list(set(items)) != items:  # what goes through a set in its order would go another way
            raise _UnknownError
        return {"set": items}
    if isinstance(value, ParamData):
        return {"ParamData": {"name": value.name, "data": value.data, "device": value.data.device.type}}
    if isinstance(value, nn.Module):
        return {"network": dict(value.state_dict()), "training": value.training}
    if isinstance(value, AvalancheDataset):
        return {"samples": _samples(value)}
    if _known(value):
        kind = type(value).__name__
        return {kind: {name: _encode(vars(value)[name]) for name in _STATE[kind]}}
    raise _UnknownError


def _decode(saved: Any, current: Any, strategy: Any) -> Any:
    """The value that was saved; `current` is what stands in its place now."""
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from avalanche.training.utils import ParamData

    if not isinstance(saved, dict):
        return saved
    kind, content = next(iter(saved.items()))
    if kind == "dict":
        found = {key: _decode(item, None, strategy) for key, item in content.items()}
        if not isinstance(current, dict):
            return found
        current.clear()  # it may be a defaultdict
        current.update(found)
        return current
    if kind in ("list", "tuple"):
        items = (_decode(item, None, strategy) for item in content)
        return list(items) if kind == "list" else tuple(items)
    if kind == "set":
        return set(content)
    if kind == "ParamData":
        data = content["data"] if content["device"] == "cpu" else content["data"].to(strategy.device)
        return ParamData(content["name"], data.shape, init_tensor=data, device=data.device)
    if kind == "network":
        network = copy.deepcopy(strategy.model).train(saved["training"])
        network.load_state_dict(content)
        return network
    if kind == "samples":
        return _dataset(*content)
    if current is None and kind == "ReservoirSamplingBuffer":
        current = ReservoirSamplingBuffer(0)
    if type(current).__name__ != kind:
        raise ValueError(f"{kind} in place of {type(current).__name__}")
    for name, item in content.items():
        setattr(current, name, _decode(item, getattr(current, name), strategy))
    return current


def _samples(dataset: Any) -> list[Tensor]:
    """Inputs, labels and task labels of all samples, as training sees them."""
    from clbinn.benchmarks import resident

    data = resident(dataset)
    if data is None or len(data) == 0:
        raise _UnknownError
    x, y, *label = data.batch(torch.arange(len(data)))
    return [x, y, label[0] if label else torch.zeros_like(y)]


def _dataset(x: Tensor, y: Tensor, label: Tensor) -> Any:
    from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskLabels
    from avalanche.benchmarks.utils.classification_dataset import TaskAwareSupervisedClassificationDataset

    from clbinn.benchmarks import TensorTask

    # Avalanche can put a constant behind a constant, but not behind a list.
    same = bool((label == label[0]).all())
    labels = TaskLabels(ConstantSequence(int(label[0]), len(label)) if same else label.tolist())
    attributes = [DataAttribute(y.tolist(), "targets"), labels]
    return TaskAwareSupervisedClassificationDataset([TensorTask(x, y)], data_attributes=attributes)
