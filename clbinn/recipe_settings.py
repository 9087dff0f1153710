"""The settings of a strategy's recipe under their dotted names: in these words reports tell two recipes apart."""

from collections.abc import Mapping
from typing import Any

__all__ = ["OBSERVERS", "settings", "tells_length"]

OBSERVERS = ("clbinn.experiments.weight_histogram.WeightHistogram",)
"""Plugins that look on and change no number."""

_WITHOUT_EFFECT = ("name", "title", "provenance")


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a strategy's recipe by their names, e.g. `options.lr`, but for what has no effect on a run.

    `plugins` is one text, by class names and options, e.g. `Replay(mem_size=200)`, or `none`.
    """
    found = _flat({key: value for key, value in recipe.items() if key not in (*_WITHOUT_EFFECT, "plugins")})
    plugins = recipe.get("plugins")
    texts = [_plugin(plugin) for plugin in (plugins if isinstance(plugins, list) else []) if not _observes(plugin)]
    return found | {"plugins": ", ".join(texts) or "none"}


def tells_length(note: str) -> bool:
    """Whether a note of summary.json's `protocol` is about the number of epochs."""
    return note.startswith(("epochs ", "train.epochs "))


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {place: value}
    parts = (_flat(item, f"{place}.{key}" if place else str(key)) for key, item in value.items())
    return {name: leaf for part in parts for name, leaf in part.items()}


def _observes(plugin: Any) -> bool:
    return isinstance(plugin, Mapping) and plugin.get("target") in OBSERVERS


def _plugin(plugin: Any) -> str:
    if not isinstance(plugin, Mapping):
        return str(plugin)
    name = str(plugin.get("target")).rpartition(".")[2]
    options = plugin.get("options")
    words = [f"{key}={value}" for key, value in options.items()] if isinstance(options, Mapping) else []
    return f"{name}({', '.join(words)})" if words else name
