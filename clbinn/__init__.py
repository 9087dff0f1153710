"""Continual learning with Bayesian binary neural networks.

    from clbinn.optim import BayesBiNN                       # plain PyTorch
    from clbinn.strategies import BayesBiNN, BayesBiNNPlugin  # Avalanche
    from clbinn import benchmarks                            # task streams

Parts are imported when they are first used: `import clbinn` needs neither torch nor Avalanche.
"""

from importlib import import_module
from typing import Any

__all__ = ["benchmarks", "bernoulli", "evaluation", "nn", "optim", "packed", "predict", "report", "strategies"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("clbinn")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0+unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
