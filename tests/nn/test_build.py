import pytest

from clbinn.errors import RecipeError
from clbinn.nn.build import build_model
from clbinn.schema import ModelSpec


@pytest.mark.parametrize("kind", ["lrnet_mnist", "lrnet_cifar10"])
def test_lrnet_s_networks_have_fixed_widths(kind):
    with pytest.raises(RecipeError, match=f"kind {kind}.*'hidden'"):
        build_model(ModelSpec(kind=kind, hidden=[20]), (1, 28, 28), 10)
