"""Task streams: from a recipe to an ordinary Avalanche benchmark whose data stay on the device.

Names are loaded when first used, so that listing data needs neither torch nor Avalanche.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import DataStatus, status
    from .dataset import ResidentData, TensorTask, resident
    from .loading import FastLoadingPlugin, TensorLoader
    from .stream import StreamInfo, load

__all__ = [
    "DataStatus",
    "FastLoadingPlugin",
    "ResidentData",
    "StreamInfo",
    "TensorLoader",
    "TensorTask",
    "load",
    "resident",
    "status",
]

_MODULES = {
    "DataStatus": "data",
    "FastLoadingPlugin": "loading",
    "ResidentData": "dataset",
    "StreamInfo": "stream",
    "TensorLoader": "loading",
    "TensorTask": "dataset",
    "load": "stream",
    "resident": "dataset",
    "status": "data",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
