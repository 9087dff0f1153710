"""Everything that a strategy knows, as plain values: taken at a step, put back at the same step of a new strategy."""

from typing import Any

import torch

from clbinn.experiments import avalanche_state

__all__ = [
    "first_not_finite",
    "gather",
    "on_device",
    "restore",
    "restore_before_task",
    "setting",
    "settings",
    "tensor_bytes",
    "unsaved",
]

# what every Avalanche strategy holds: saved apart, made anew by each call of train(), or settings
_TEMPLATE = {
    *("model", "optimizer", "plugins", "clock", "evaluator", "device", "experience", "is_training", "eval_every"),
    *("current_eval_stream", "train_epochs", "train_mb_size", "eval_mb_size", "retain_graph", "adapted_dataset"),
    *("dataloader", "plugin", "mbatch", "mb_output", "loss", "optimized_param_id"),
    *("_criterion", "_distributed_check", "_eval_streams", "_parts", "_stop_training"),
}
_WITHOUT_STATE = {"EvaluationPlugin", "PeriodicEval", "Clock", "FastLoadingPlugin"}
_SETTINGS = (type(None), bool, int, float, str, torch.dtype, torch.device, type)


def settings(strategy: Any, plugins: list[Any]) -> list[dict[str, Any]]:
    """What the strategy and each plugin have of numbers, text and the like, by name; taken before a run begins."""
    return [
        {name: value for name, value in vars(part).items() if name not in known and isinstance(value, _SETTINGS)}
        for part, known in _parts(strategy, plugins)
    ]


def unsaved(strategy: Any, plugins: list[Any], before: list[dict[str, Any]]) -> list[str]:
    """Names of the parts that keep something and have no `state_dict`: such a run can't be continued.

    Numbers and text are settings, unless they have changed since the run began. `avalanche_state` tells the state of
    Avalanche's most used plugins.

    Args:
        strategy: At any time.
        plugins: Its plugins.
        before: What `settings` gave.
    """
    now = settings(strategy, plugins)
    return [
        type(part).__name__
        for (part, known), was, has in zip(_parts(strategy, plugins), before, now, strict=True)
        if (_keeps(part, known) or was != has) and _state(part) is None
    ]


def _parts(strategy: Any, plugins: list[Any]) -> list[tuple[Any, set[str]]]:
    """The strategy and its plugins, each with the attributes that are no state of its own."""
    return [(strategy, _TEMPLATE), *((p, set()) for p in plugins if type(p).__name__ not in _WITHOUT_STATE)]


def _state(part: Any) -> dict[str, Any] | None:
    return part.state_dict() if hasattr(part, "state_dict") else avalanche_state.state(part)


def _keeps(part: Any, known: set[str]) -> bool:
    return any(name not in known and not isinstance(value, _SETTINGS) for name, value in vars(part).items())


def gather(strategy: Any, plugins: list[Any]) -> dict[str, Any]:
    """The state of network, optimizer, strategy, plugins and clock."""
    return {
        "model": strategy.model.state_dict(),
        "optimizer": strategy.optimizer.state_dict(),
        "strategy": _state(strategy),
        "plugins": {
            f"{index}:{type(plugin).__name__}": state
            for index, plugin in enumerate(plugins)
            if (state := _state(plugin)) is not None
        },
        "clock": dict(vars(strategy.clock)),
    }


def restore(strategy: Any, plugins: list[Any], state: dict[str, Any]) -> None:
    """Take over what `gather` gave, into a strategy of the same recipe at the same place in Avalanche's loop."""
    strategy.model.load_state_dict(state["model"])
    groups = list(strategy.optimizer.param_groups)
    strategy.optimizer.load_state_dict(state["optimizer"])
    for group, loaded in zip(groups, strategy.optimizer.param_groups, strict=True):
        group.clear()
        group.update(loaded)
    strategy.optimizer.param_groups[:] = groups  # schedules hold on to the groups themselves
    if state["strategy"] is not None:
        strategy.load_state_dict(on_device(state["strategy"], strategy.device))
    for plugin, value in _saved(plugins, state):
        if hasattr(plugin, "load_state_dict"):
            plugin.load_state_dict(on_device(value, strategy.device))
        else:
            avalanche_state.load(plugin, value, strategy)
    vars(strategy.clock).update(state["clock"])


def restore_before_task(strategy: Any, plugins: list[Any], state: dict[str, Any]) -> None:
    """The part of `restore` for Avalanche's plugins that look at what they know as soon as a task begins.

    It is done again by `restore`, for what they do at a beginning.
    """
    for plugin, value in _saved(plugins, state):
        if not hasattr(plugin, "load_state_dict") and avalanche_state.holds_inside_task(plugin):
            avalanche_state.load(plugin, value, strategy)


def _saved(plugins: list[Any], state: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    return [(plugins[int(name.partition(":")[0])], value) for name, value in state["plugins"].items()]


def on_device(value: Any, device: torch.device | str) -> Any:
    """Nested dicts and lists with their tensors on a device; bytes, which are states of generators, stay on the CPU."""
    if isinstance(value, torch.Tensor):
        return value if value.dtype == torch.uint8 else value.to(device)
    if isinstance(value, dict):
        return {key: on_device(item, device) for key, item in value.items()}
    return type(value)(on_device(item, device) for item in value) if isinstance(value, list | tuple) else value


def first_not_finite(value: Any, place: str = "") -> str | None:
    """The place of the first tensor that holds NaN or infinity, e.g. `optimizer.state.0.natural`; or None."""
    if isinstance(value, torch.Tensor):
        return None if not value.is_floating_point() or bool(value.isfinite().all()) else place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        found = first_not_finite(item, f"{place}.{key}" if place else str(key))
        if found:
            return found
    return None


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return value.nelement() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(tensor_bytes(item) for item in items)


def setting(strategy: Any, name: str) -> Any:
    """A setting of the strategy or of one of its plugins, e.g. `mc_samples`; None if nobody has it."""
    for part in (strategy, *strategy.plugins):
        value = vars(part).get(name)
        if value is not None:
            return value
    return None
