import math

import torch
from torch import nn

from clbinn.optim import STE
from clbinn.optim.ste import initial_bound


def test_walks_with_torch_adam_between_the_clips():
    torch.manual_seed(0)
    net = nn.Linear(6, 4, bias=False)
    opt = STE(net.parameters(), lr=0.3, seed=1)
    latent = nn.Parameter(opt.latent_weights()[0].clone())
    adam = torch.optim.Adam([latent], lr=0.3)
    signs = set()
    for step in range(50):
        gradient = 3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        with opt.sampled_params():
            assert torch.equal(net.weight, torch.where(latent >= 0, 1.0, -1.0))
            (net.weight * gradient).sum().backward()
        opt.step()
        latent.grad = gradient.clamp(-1, 1)
        adam.step()
        latent.data.clamp_(-1, 1)
        torch.testing.assert_close(opt.latent_weights()[0], latent.data, rtol=1e-5, atol=1e-6)
        signs.add(tuple(net.weight.flatten().tolist()))
    assert len(signs) > 10  # the weights really moved
    assert float(latent.detach().abs().max()) == 1.0


def test_zero_is_plus_one_and_clips_can_be_left_out():
    p = nn.Parameter(torch.empty(3))
    opt = STE([p], lr=5.0, clip_gradient=None, clip_latent=None)
    opt.latent_weights()[0].copy_(torch.tensor([0.0, -0.0, -1e-30]))
    for flat in opt._flat:
        flat.clear_samples()
    opt.restore()
    assert p.tolist() == [1.0, 1.0, -1.0]
    with opt.sampled_params():
        (p * torch.tensor([7.0, -7.0, 7.0])).sum().backward()
    opt.step()
    assert float(opt.latent_weights()[0].abs().max()) > 1


def test_start_is_uniform_on_the_authors_interval():
    net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.Linear(300, 200))
    opt = STE(net.parameters(), seed=0)
    conv, conv_bias, linear, linear_bias = opt.latent_weights()
    for latent, fans in ((conv, (3 + 8) * 25), (linear, 500), (conv_bias, 9), (linear_bias, 201)):
        bound = math.sqrt(1.5 / fans)
        assert initial_bound(latent) == bound
        assert float(latent.abs().max()) <= bound
    bound = math.sqrt(1.5 / 500)
    assert abs(float(linear.std()) - bound / math.sqrt(3)) < 0.01 * bound
