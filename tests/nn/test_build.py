import pytest

from clbinn.errors import RecipeError
from clbinn.nn.build import build_model
from clbinn.schema import ModelSpec


@pytest.mark.parametrize("kind", ["lrnet_mnist", "lrnet_cifar10"])
def test_lrnet_s_networks_have_fixed_widths(kind):
    with pytest.raises(RecipeError, match=f"model.hidden: {kind} has no such option"):
        build_model(ModelSpec(kind=kind, hidden=[20]), (1, 28, 28), 10)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "mlp", "hiden": [3]}, "model.hiden: .* has no such option.*did you mean 'hidden'"),
        ({"kind": "mlp", "norm": 3}, "model.norm"),
        ({"kind": "mpl"}, "unknown kind 'mpl'.*did you mean 'mlp'"),
    ],
)
def test_a_mistake_in_the_network_is_named(spec, message):
    with pytest.raises(RecipeError, match=message):
        build_model(ModelSpec.model_validate(spec), (1, 28, 28), 10)
