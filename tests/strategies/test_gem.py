import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from clbinn.errors import UserError
from clbinn.strategies.gem import GEM, GEMPlugin, project


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_projection_solves_the_quadratic_program(margin):
    torch.manual_seed(0)
    memories, gradient = torch.randn(4, 30, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    rows, own = memories.numpy(), gradient.numpy()
    gram = rows @ rows.T + 1e-3 * np.eye(4)
    best = minimize(
        lambda v: v @ gram @ v / 2 + v @ rows @ own,
        np.ones(4),
        jac=lambda v: gram @ v + rows @ own,
        bounds=[(margin, None)] * 4,
        tol=1e-14,
    )
    expected = own + best.x @ rows
    np.testing.assert_allclose(project(gradient, memories, margin).numpy(), expected, atol=1e-4)


def test_projection_does_not_raise_the_loss_on_any_memory():
    torch.manual_seed(1)
    memories, gradient = torch.randn(5, 40), torch.randn(40)
    assert (memories @ gradient).min() < -1
    assert (memories @ project(gradient, memories, 0.0)).min() > -0.01


def test_it_forgets_less_than_fine_tuning(make_net, make_stream, evaluate):
    accuracy = {}
    for strength in (0.5, None):
        torch.manual_seed(0)
        strategy = GEM(
            model=make_net(), evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=20, patterns_per_experience=30
        )
        if strength is None:
            next(p for p in strategy.plugins if isinstance(p, GEMPlugin)).solve_quadprog = lambda g: g
        stream = make_stream(count=120)
        for experience in stream.train_stream:
            strategy.train(experience)
        accuracy[strength] = evaluate(strategy, stream.test_stream[0])[1]
    assert accuracy[0.5] > accuracy[None] + 0.05


def test_bad_options_are_told(make_net):
    with pytest.raises(UserError, match="patterns_per_experience must be at least 1"):
        GEM(model=make_net(), evaluator=None, patterns_per_experience=0)
