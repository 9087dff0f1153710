"""Avalanche strategies and plugins: one method per file. Names are looked up when they are first used."""

from importlib import import_module
from typing import Any

_HOME = {
    "BayesBiNN": "bayesbinn",
    "BayesBiNNPlugin": "bayesbinn_plugin",
    "EWC": "ewc",
    "EWCPlugin": "ewc",
    "Joint": "joint",
    "JointPlugin": "joint",
    "MultiHead": "multi_head",
    "Naive": "naive",
    "PerTask": "per_task",
    "PerTaskPlugin": "per_task",
    "SI": "si",
    "SIPlugin": "si",
    "SynapticMetaplasticity": "synaptic_metaplasticity",
    "VCL": "vcl",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
