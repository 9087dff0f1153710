import pytest
import torch
from torch import nn

from clbinn.optim import PMF
from clbinn.optim.pmf import exact_gradient, identity_gradient


@pytest.mark.parametrize("beta", [1.0, 3.7])
def test_the_exact_gradient_is_what_autograd_finds(beta):
    torch.manual_seed(0)
    plus, minus = (torch.randn(50, dtype=torch.float64, requires_grad=True) for _ in range(2))
    g = torch.randn(50, dtype=torch.float64)
    u = torch.softmax(beta * torch.stack([plus, minus]), 0)
    ((u[0] - u[1]) * g).sum().backward()
    ours = exact_gradient((u[0] - u[1]).detach(), g, beta)
    torch.testing.assert_close(ours[0], plus.grad)
    torch.testing.assert_close(ours[1], minus.grad)


def test_gradients_have_the_shape_of_the_weights():
    soft, g = torch.linspace(-0.9, 0.9, 12).view(3, 4), torch.ones(3, 4)
    for gradient in (exact_gradient, identity_gradient):
        for whole, flat in zip(gradient(soft, g, 2.0), gradient(soft.view(-1), g.view(-1), 2.0), strict=True):
            assert torch.equal(whole.view(-1), flat)
        across = gradient(soft.T, g.T, 2.0)[0]
        assert torch.allclose(across.T, gradient(soft, g, 2.0)[0], rtol=1e-5)
    assert identity_gradient(torch.tensor(0.5), torch.tensor(1.0), 2.0)[0].shape == ()


def test_the_identity_gradient_is_the_matrix_product_written_out():
    torch.manual_seed(0)
    plus, minus, g = torch.randn(3, 20, dtype=torch.float64)
    beta, q = 1.9, torch.tensor([1.0, -1.0], dtype=torch.float64)
    ours = identity_gradient(torch.tanh((plus - minus) * (beta / 2)), g, beta)
    for i in range(20):
        u = torch.softmax(beta * torch.stack([plus[i], minus[i]]), 0)
        v = torch.softmax(beta * u, 0)
        expected = beta * (torch.eye(2, dtype=torch.float64) - torch.outer(v, v)) @ (q * g[i])
        torch.testing.assert_close(torch.stack([ours[0][i], ours[1][i]]), expected)


def _step(opt, p, times=1):
    for _ in range(times):
        with opt.sampled_params():
            p.sum().backward()
        opt.step()


def test_beta_grows_at_the_first_step_and_each_interval_up_to_its_cap():
    p = nn.Parameter(torch.zeros(4, 4))
    opt = PMF([p], rho=2.0, rho_interval=3, beta_max=7.0)
    betas = []
    for _ in range(10):
        _step(opt, p)
        betas.append(opt.param_groups[0]["beta"])
    assert betas == [2, 2, 2, 4, 4, 4, 7, 7, 7, 7]


def test_training_weights_harden_to_the_rounded_ones():
    p = nn.Parameter(torch.zeros(20, 20))
    opt = PMF([p], lr=0.0, rho=10.0, rho_interval=1, beta_max=1e9, seed=0)
    distances = []
    for _ in range(9):
        with opt.sampled_params():
            distances.append(float((p.detach() - opt.mode_weights()[0]).abs().mean()))
            p.sum().backward()
        opt.step()
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 1e-3


def test_walks_with_autograd_and_torch_adam():
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(5, 3))
    opt = PMF([p], lr=0.05, rho=1.5, rho_interval=10, weight_decay=1e-2, seed=0)
    entry = opt.state_dict()["state"][0]
    logits = nn.Parameter(torch.stack([entry["plus"], entry["minus"]]))
    adam = torch.optim.Adam([logits], lr=0.05, weight_decay=1e-2)
    target, beta = torch.randn(5, 3), 1.0
    for step in range(60):
        with opt.sampled_params():
            (p - target).square().sum().backward()
        opt.step()
        adam.zero_grad()
        u = torch.softmax(beta * logits, 0)
        (u[0] - u[1] - target).square().sum().backward()
        adam.step()
        beta = beta * 1.5 if step % 10 == 0 else beta
        entry = opt.state_dict()["state"][0]
        torch.testing.assert_close(torch.stack([entry["plus"], entry["minus"]]), logits.data, rtol=1e-4, atol=1e-4)


def test_logits_start_by_glorots_rule_and_those_of_vectors_normal():
    matrix, kernel = nn.Parameter(torch.zeros(300, 200)), nn.Parameter(torch.zeros(60, 50, 3, 3))
    vector = nn.Parameter(torch.zeros(50_000))
    opt = PMF([matrix, kernel, vector], seed=0)
    for index, fans in ((0, 300 + 200), (1, (60 + 50) * 9)):
        limit = (6 / fans) ** 0.5
        for side in ("plus", "minus"):
            logits = opt.state_dict()["state"][index][side]
            assert float(logits.abs().max()) == pytest.approx(limit, rel=1e-2)
            assert float(logits.abs().max()) <= limit
            assert float(logits.std()) == pytest.approx(limit / 3**0.5, rel=2e-2)
    plus = opt.state_dict()["state"][2]["plus"]
    assert float(plus.std()) == pytest.approx(0.1, rel=2e-2)
    assert float(plus.abs().max()) > 0.35, "normal, not uniform"
