import torch
from torch import nn

from clbinn.strategies._quadratic import QuadraticPenalty


def net() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def zero_gradients(model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.zeros_like(p)


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))


def test_two_tensors_hold_any_number_of_anchors():
    model, penalty, anchors = net(), QuadraticPenalty(), []
    for _ in range(3):
        importance = {name: torch.rand_like(p) for name, p in model.named_parameters()}
        anchors.append((importance, {name: p.detach().clone() for name, p in model.named_parameters()}))
        penalty.add(model, importance)
        shift(model)
    loss = 0.7 * sum(
        (importance[name] * (p - anchor[name]).square()).sum() / 2
        for importance, anchor in anchors
        for name, p in model.named_parameters()
    )
    expected = torch.autograd.grad(loss, list(model.parameters()))
    zero_gradients(model)
    penalty.add_gradient(model, 0.7)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_it_adds_to_the_gradient_that_is_there():
    model, penalty = net(), QuadraticPenalty()
    penalty.add(model, {name: torch.ones_like(p) for name, p in model.named_parameters()})
    shift(model)
    zero_gradients(model)
    penalty.add_gradient(model, 1.0)
    once = model.weight.grad.clone()
    penalty.add_gradient(model, 1.0)
    torch.testing.assert_close(model.weight.grad, 2 * once)


def test_moved_anchors_pull_to_the_newest_weights_with_what_is_left():
    model, penalty = net(), QuadraticPenalty()
    penalty.add(model, {name: torch.ones_like(p) for name, p in model.named_parameters()})
    shift(model)
    penalty.move(model, 0.25)
    zero_gradients(model)
    penalty.add_gradient(model, 1.0)
    torch.testing.assert_close(model.weight.grad, torch.zeros_like(model.weight))
    with torch.no_grad():
        model.weight.add_(1.0)
    zero_gradients(model)
    penalty.add_gradient(model, 1.0)
    torch.testing.assert_close(model.weight.grad, torch.full_like(model.weight, 0.25))


def test_of_a_layer_that_grew_the_old_part_is_held_and_the_new_one_free():
    model, penalty = net(), QuadraticPenalty()
    old = model.weight.detach().clone()
    penalty.add(model, {"weight": torch.ones_like(model.weight)})
    model.weight = nn.Parameter(torch.cat([old + 2, torch.full((1, 3), 9.0, dtype=torch.float64)]))
    zero_gradients(model)
    penalty.add_gradient(model, 1.0)
    torch.testing.assert_close(model.weight.grad[:2], torch.full_like(old, 2.0))
    assert not model.weight.grad[2].any()
    penalty.add(model, {"weight": torch.ones_like(model.weight)})
    assert penalty.precision["weight"].tolist() == [[2.0] * 3, [2.0] * 3, [1.0] * 3]


def test_state_goes_round():
    model, penalty = net(), QuadraticPenalty()
    penalty.add(model, {name: torch.rand_like(p) for name, p in model.named_parameters()})
    shift(model)
    other = QuadraticPenalty()
    other.load_state_dict(penalty.state_dict())
    zero_gradients(model)
    penalty.add_gradient(model, 1.0)
    expected = model.bias.grad.clone()
    zero_gradients(model)
    other.add_gradient(model, 1.0)
    assert torch.equal(model.bias.grad, expected)


def test_a_parameter_without_gradient_stays_without():
    model, penalty = net(), QuadraticPenalty()
    penalty.add(model, {name: torch.ones_like(p) for name, p in model.named_parameters()})
    shift(model)
    model.bias.grad = torch.zeros_like(model.bias)
    penalty.add_gradient(model, 1.0)
    assert model.weight.grad is None
    assert model.bias.grad.any()
