"""From a recipe's `model:` to a network of the right sizes."""

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from math import prod
from typing import Any

from torch import nn

from clbinn.errors import RecipeError
from clbinn.nn.cnn import CNN, lrnet_cifar10, lrnet_mnist
from clbinn.nn.mlp import MLP
from clbinn.recipe_faults import one_of
from clbinn.schema import ModelSpec
from clbinn.targets import check_options

__all__ = ["build_model", "check_model", "kinds"]


def mlp(
    input_shape: Sequence[int], num_classes: int, *, hidden: Sequence[int] = (100, 100), **options: Any
) -> nn.Module:
    return MLP(prod(input_shape), hidden, num_classes, **options)


def _options_of_mlp() -> inspect.Signature:
    """What a recipe may say of an MLP: all but the sizes that the data give; `hidden` has a default here."""
    given, own = ("in_features", "out_features"), inspect.signature(mlp).parameters["hidden"]
    free = {name: p for name, p in inspect.signature(MLP).parameters.items() if name not in given} | {"hidden": own}
    named = [p.replace(kind=p.KEYWORD_ONLY) for p in free.values()]
    return inspect.signature(mlp).replace(parameters=[*list(inspect.signature(mlp).parameters.values())[:2], *named])


mlp.__signature__ = _options_of_mlp()  # type: ignore[attr-defined]

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": CNN,  # Table 8 by default
    "lrnet_mnist": lrnet_mnist,
    "lrnet_cifar10": lrnet_cifar10,
}


def kinds() -> list[str]:
    """The names that `model.kind` may have, besides `package.module:callable`."""
    return sorted(_BUILDERS)


def build_model(spec: ModelSpec, input_shape: Sequence[int], num_classes: int) -> nn.Module:
    """The network of a recipe.

    Args:
        spec: Kind and options. A kind `package.module:callable` is called as callable(input_shape, num_classes, …).
        input_shape: Shape of one input, without the batch.
        num_classes: Size of the output.

    Returns:
        The network, in training mode.

    Raises:
        RecipeError: An unknown kind, or options that it does not take.
    """
    check_model(spec)
    builder = _BUILDERS.get(spec.kind) or _imported(spec.kind)
    options = dict(spec.model_extra or {})
    try:
        inspect.signature(builder).bind(input_shape, num_classes, **options)
        return builder(input_shape, num_classes, **options)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model: kind {spec.kind}: {error}") from None


def check_model(spec: ModelSpec) -> None:
    """What can be said of a recipe's network before the data are known.

    Raises:
        RecipeError: An unknown kind, or options that it does not take.
    """
    if spec.kind not in _BUILDERS:
        _imported(spec.kind)
        return
    sizes = ("input_shape", "num_classes", "out_features")
    check_options(_BUILDERS[spec.kind], spec.model_extra or {}, "model", given=sizes)


def _imported(kind: str) -> Callable[..., nn.Module]:
    module, _, name = kind.partition(":")
    if not name:
        raise RecipeError(f"model.kind: unknown kind {kind!r}{one_of(kind, [*kinds(), 'package.module:callable'])}")
    try:
        builder: Callable[..., nn.Module] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"model.kind: {kind}: {error}") from None
    return builder
