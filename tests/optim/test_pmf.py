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


def walk(opt, p, target, steps=20):
    for _ in range(steps):
        with opt.sampled_params():
            (p - target).square().sum().backward()
        opt.step()


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [1, 2])
def test_walks_with_autograd_and_torch_adam(weight_decay, dtype, samples):
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(5, 3, dtype=dtype))
    opt = PMF([p], lr=0.05, rho=1.5, rho_interval=10, weight_decay=weight_decay, seed=0)
    entry = opt.state_dict()["state"][0]
    assert ("minus_exp_avg" in entry) == (weight_decay > 0)
    logits = nn.Parameter(torch.stack([entry["plus"], entry["minus"]]))
    adam = torch.optim.Adam([logits], lr=0.05, weight_decay=weight_decay)
    target, beta = torch.randn(5, 3, dtype=dtype), 1.0
    for step in range(60):
        for _ in range(samples):
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
        assert torch.equal(p.detach(), torch.where(entry["plus"] >= entry["minus"], 1.0, -1.0).to(dtype))


@pytest.mark.parametrize("changed", [{"weight_decay": 1e-2}, {"jacobian": "identity"}])
def test_a_schedule_may_tell_the_logits_apart_later(changed):
    torch.manual_seed(0)
    target, ends = torch.randn(5, 3), []
    for options in ({}, {"jacobian": "identity"}):  # the second keeps moments of both from the start
        p = nn.Parameter(torch.zeros(5, 3))
        opt = PMF([p], lr=0.05, seed=0, **options)
        opt.param_groups[0]["jacobian"] = "exact"
        walk(opt, p, target)
        opt.param_groups[0].update(changed)
        walk(opt, p, target)
        ends.append(opt.state_dict()["state"][0])
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-5, msg=name)
    assert not torch.allclose(ends[0]["plus_exp_avg"], -ends[0]["minus_exp_avg"], rtol=1e-2)


@pytest.mark.parametrize(("first", "then"), [(0.0, 1e-2), (1e-2, 0.0)])
def test_a_parameter_that_grows_keeps_the_moments_of_both_logits(first, then):
    """Whether they are kept apart from the start, from now on, or no longer needed."""
    torch.manual_seed(0)
    target, ends = torch.randn(5, 3), []
    for options in ({}, {"jacobian": "identity"}):  # the second keeps moments of both from the start
        p, grown = nn.Parameter(torch.zeros(5, 3)), nn.Parameter(torch.zeros(7, 3))
        opt = PMF([p], lr=0.05, weight_decay=first, seed=0, **options)
        group = opt.param_groups[0]
        group["jacobian"] = "exact"
        walk(opt, p, target)
        group["weight_decay"] = then
        if options:
            group["jacobian"] = "identity"  # keeps them while the parameter is exchanged
        opt.set_parameters([grown], {grown: p})
        group["jacobian"] = "exact"
        opt.noise.load_state_dict(PMF([p], seed=0).noise.state_dict())
        walk(opt, grown, torch.cat([target, target[:2]]), steps=3)
        ends.append({name: value[:5] for name, value in opt.state_dict()["state"][0].items()})
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("saved", [{}, {"weight_decay": 1e-2}])
@pytest.mark.parametrize("loading", [{}, {"weight_decay": 1e-2}])
def test_a_state_is_loaded_with_or_without_the_moments_of_both(saved, loading):
    torch.manual_seed(0)
    target, (p, q) = torch.randn(5, 3), (nn.Parameter(torch.zeros(5, 3)) for _ in range(2))
    opt, other = PMF([p], lr=0.05, seed=0, **saved), PMF([q], lr=0.05, seed=1, **loading)
    walk(opt, p, target)
    walk(other, q, target, steps=3)
    other.load_state_dict(opt.state_dict())
    for each, param in ((opt, p), (other, q)):
        each.param_groups[0]["weight_decay"] = 1e-2
        walk(each, param, target)
    mine, others = (each.state_dict()["state"][0] for each in (opt, other))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[name], others[name]) for name in mine)


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
