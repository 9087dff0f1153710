import pytest
import torch
from torch import nn

from clbinn.nn import MLP
from clbinn.strategies import MultiHead


def test_with_one_head_it_is_the_network(make_stream):
    torch.manual_seed(0)
    net = MLP(12, [5], 3, norm="scale", bias=True, logit_scale=3.0)
    model = MultiHead(net)
    model.adaptation(make_stream(1, labelled=True).train_stream[0])
    for own, given in zip(model.parameters(), net.parameters(), strict=True):
        own.data.copy_(given)
    x = torch.randn(4, 12)
    torch.testing.assert_close(model(x, torch.zeros(4, dtype=torch.long)), net(x))


def test_heads_are_started_apart_and_leave_each_other_alone(make_stream):
    torch.manual_seed(0)
    model = MultiHead(MLP(12, [5], 3, norm="none"))
    for experience in make_stream(2, labelled=True).train_stream:
        model.adaptation(experience)
    first, second = (head[0].weight for head in model.heads.values())
    assert not torch.equal(first, second)
    model(torch.randn(4, 12), torch.ones(4, dtype=torch.long)).sum().backward()
    assert first.grad is None
    assert second.grad.any()


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="needs `layers` with a linear one"):
        MultiHead(nn.Sequential(nn.Linear(2, 2)))
