"""One battery that every binary optimizer passes."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clbinn.nn import MLP
from clbinn.nn.lrnet import to_stochastic
from clbinn.optim import PMF, STE, BayesBiNN, Bop, LRNet, StepDecay, _flat

# name: (class, options that learn the small target, a value that schedulers move)
OPTIMIZERS = {
    "bayesbinn": (BayesBiNN, {"num_data": 256, "lr": 1e-2, "temperature": 1.0, "init_natural": 1.0}, "lr"),
    "bayesbinn_momentum": (
        BayesBiNN,
        {"num_data": 256, "lr": 1e-2, "temperature": 1.0, "momentum": 0.9},
        "temperature",
    ),
    "ste": (STE, {"lr": 1e-2}, "lr"),
    "bop": (Bop, {"adaptivity": 1e-2, "threshold": 1e-6}, "adaptivity"),
    "pmf": (PMF, {"lr": 1e-2, "rho_interval": 5}, "lr"),
    "pmf_identity": (PMF, {"lr": 1e-2, "rho_interval": 5, "jacobian": "identity"}, "lr"),
    "lrnet": (LRNet, {"lr": 3e-2}, "lr"),
    "lrnet_ternary": (LRNet, {"lr": 3e-2, "probability_penalty": 0.0, "logit_penalty": 1e-11}, "lr"),
}
BINARY = [name for name in OPTIMIZERS if not name.startswith("lrnet")]


def network(name, net_seed=0):
    torch.manual_seed(net_seed)
    net = MLP(20, [32, 32], 2)
    return to_stochastic(net, ternary=name == "lrnet_ternary") if name.startswith("lrnet") else net


def make(name, seed=0, net_seed=0):
    net = network(name, net_seed)
    cls, options, _ = OPTIMIZERS[name]
    return net, cls(net.parameters(), seed=seed, **options)


@functools.cache
def data():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(256, 20, generator=generator)
    return x, (x[:, :5].sum(1) > 0).long()


def train(net, opt, steps, seed=5):
    torch.manual_seed(seed)  # stochastic layers draw from the global generator
    x, y = data()
    for _ in range(steps):
        with opt.sampled_params():
            F.cross_entropy(net(x), y).backward()
        opt.step()


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def states(opt):
    """Copies of all that an optimizer keeps of the weights, by parameter and name."""
    entries = opt.state_dict()["state"]
    return [entries[index][name] for index in sorted(entries) for name in sorted(entries[index])]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learns_a_small_target(name):
    net, opt = make(name)
    train(net, opt, 300)
    net.eval()
    x, y = data()
    with torch.no_grad():
        assert float((net(x).argmax(1) == y).float().mean()) > 0.8


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_first_steps_change_something(name):
    net, opt = make(name)
    before = copy.deepcopy(opt.state_dict()["state"])
    train(net, opt, 3)
    after = opt.state_dict()["state"]
    assert all(any(not torch.equal(before[i][key], after[i][key]) for key in before[i]) for i in before)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("samples", [1, 2])  # one is left to the step
def test_however_a_group_is_cut_it_takes_the_same_steps(name, idle, samples, monkeypatch):
    results = []
    for way in ("parameters", "small pieces", "gathered"):
        monkeypatch.setattr(_flat, "CHUNK", 128 if way == "small pieces" else 2**17)
        net, opt = make(name)
        for p in net.parameters() if way == "gathered" else ():  # no flat view of one that is not contiguous
            p.data = p.data.transpose(-1, -2).contiguous().transpose(-1, -2)
        generator = torch.Generator().manual_seed(5)  # products of transposed matrices have other bits
        for _ in range(3):
            for _ in range(samples):
                opt.open_sample()
                for position, p in enumerate(net.parameters()):
                    gradient = torch.randn(p.shape, generator=generator)
                    p.grad = None if idle and position == 1 else gradient
                opt.close_sample(restore=samples > 1)
            opt.step()
        results.append(states(opt) + weights(net) + opt.mode_weights() + opt.sample_weights())
        assert all(flat.gathered == (way == "gathered") for flat in opt._flat)
    assert same(results[0], results[1])
    close = 1e-6 if name.startswith(("pmf", "lrnet", "ste")) else 0  # torch's loops over odd lengths round otherwise
    assert all(torch.allclose(a, b, rtol=close, atol=close) for a, b in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("meanwhile", ["nothing", "restore", "other weights", "a copy", "new gradients"])
def test_a_sample_that_is_left_to_the_step_is_not_lost(name, meanwhile):
    x, y = data()
    results = []
    for left in (False, True):
        net, opt = make(name)
        torch.manual_seed(5)
        opt.open_sample()
        F.cross_entropy(net(x), y).backward()
        opt.close_sample(restore=not left)
        if meanwhile == "restore":
            opt.restore()
        elif meanwhile == "other weights":
            with opt.weights([-p.detach() for p in net.parameters()]):
                pass
        elif meanwhile == "a copy":
            net, opt = copy.deepcopy((net, opt))
        elif meanwhile == "new gradients":
            with opt.sampled_params():
                F.cross_entropy(net(x), y).backward()
        opt.step()
        results.append(states(opt) + weights(net) + opt.mode_weights())
    assert same(*results)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["closure", "left"])
def test_after_a_step_the_module_predicts(name, way):
    net, opt = make(name)
    x, y = data()

    def closure():
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss.detach()

    if way == "closure":
        opt.step(closure)
    else:
        opt.open_sample()
        closure()
        opt.close_sample(restore=False)
        opt.step()
    assert same(weights(net), opt.mode_weights())
    assert not any(getattr(p, "holds_logits", False) for p in net.parameters())
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_graph_from_before_a_step_is_refused(name):
    net, opt = make(name)
    x, y = data()
    with opt.sampled_params():
        loss = F.cross_entropy(net(x), y)
        loss.backward(retain_graph=True)
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_call_hooks_and_are_seen_by_a_profiler(name):
    net, opt = make(name)
    called = []

    def hook(when):
        return lambda _, args, kwargs: called.append((when, args[1:], *kwargs, torch.is_grad_enabled()))

    handles = [opt.register_step_pre_hook(hook("before")), opt.register_step_post_hook(hook("after"))]
    train(net, opt, 1)
    assert called == [("before", (), True), ("after", (), True)]
    for handle in handles:
        handle.remove()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(net, opt, 1)
    assert len(called) == 2
    assert any(event.key == f"Optimizer.step#{type(opt).__name__}.step" for event in profile.key_averages())


@pytest.mark.parametrize("name", BINARY)
def test_module_is_binary_outside_the_block(name):
    net, opt = make(name)
    assert all(bool((p.abs() == 1).all()) for p in net.parameters())
    train(net, opt, 5)
    assert all(bool((p.abs() == 1).all()) for p in net.parameters())
    assert same(weights(net), opt.mode_weights())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_exception_puts_the_weights_back_and_drops_the_sample(name):
    net, opt = make(name)
    train(net, opt, 2)
    before, modes = weights(net), opt.mode_weights()
    x, y = data()
    with pytest.raises(ZeroDivisionError), opt.sampled_params():  # noqa: PT012
        F.cross_entropy(net(x), y).backward()
        raise ZeroDivisionError
    assert same(weights(net), before)
    assert same(weights(net), modes)
    with pytest.raises(RuntimeError, match="gradient"):
        opt.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_blocks_are_not_nested_and_steps_not_inside(name):
    _, opt = make(name)
    with opt.sampled_params(), pytest.raises(RuntimeError), opt.sampled_params():
        pass
    with pytest.raises(RuntimeError, match=r"inside|block"), opt.sampled_params():
        opt.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_seed_gives_the_same_run(name):
    runs = []
    for seed in (1, 1, 2):
        net, opt = make(name, seed=seed)
        train(net, opt, 5)
        runs.append([*opt.mode_weights(), *opt.sample_weights()])
    assert same(runs[0], runs[1])
    if not name.startswith("lrnet"):  # starts from the network's own weights
        assert not same(runs[0], runs[2])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loaded_state_goes_on_bit_for_bit(name, tmp_path):
    net, opt = make(name)
    train(net, opt, 4)
    torch.save({"net": net.state_dict(), "opt": opt.state_dict()}, tmp_path / "state.pt")
    train(net, opt, 4, seed=6)

    other, loaded = make(name, seed=9, net_seed=9)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(state["net"])
    loaded.load_state_dict(state["opt"])
    train(other, loaded, 4, seed=6)

    assert same(weights(net), weights(other))
    assert opt.state_dict()["param_groups"] == loaded.state_dict()["param_groups"]
    assert same(states(opt), states(loaded))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_other_shapes_is_refused(name):
    _, opt = make(name)
    cls, options, _ = OPTIMIZERS[name]
    net = MLP(20, [16, 16], 2)
    net = to_stochastic(net, ternary=name == "lrnet_ternary") if name.startswith("lrnet") else net
    with pytest.raises(ValueError, match="does not fit"):
        cls(net.parameters(), **options).load_state_dict(opt.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_random_stream_of_another_version_is_refused(name):
    net, opt = make(name)
    train(net, opt, 1)
    noise, before = opt.noise.state.copy(), states(opt)
    other = copy.deepcopy(opt.state_dict())
    for entry in other["state"].values():
        for value in entry.values():
            value.zero_()
    for stream in (torch.zeros(4, dtype=torch.int64), torch.zeros(2, 128, dtype=torch.int64), torch.zeros(4, 64)):
        other["noise"]["cpu"] = stream
        with pytest.raises(ValueError, match="random stream is of another version"):
            opt.load_state_dict(other)
    assert (opt.noise.state == noise).all()
    assert same(states(opt), before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_keep_their_own_options(name):
    net = network(name)
    cls, options, key = OPTIMIZERS[name]
    params = list(net.parameters())
    groups = [{"params": params[:1]}, {"params": params[1:], key: options.get(key, 1e-2) / 2}]
    opt = cls(groups, **options)
    assert opt.param_groups[1][key] == opt.param_groups[0][key] / 2
    train(net, opt, 2)
    StepDecay(opt, 0.5, every=1, key=key).step()
    assert [group[key] for group in opt.param_groups] == [options[key] / 2, options[key] / 4]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_that_reaches_zero_stops_the_learning(name):
    net, opt = make(name)
    cls, _, _ = OPTIMIZERS[name]
    train(net, opt, 3)
    for group in opt.param_groups:
        group["adaptivity" if cls is Bop else "lr"] = 0.0
    if cls is Bop:
        opt.param_groups[0]["threshold"] = float("1e9")
    before = weights(net)
    train(net, opt, 3)
    assert same(weights(net), before)


def test_torch_schedulers_move_the_step_size():
    net, opt = make("ste")
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.1)
    train(net, opt, 1)
    scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_half_precision_mixtures_and_doubles_are_refused(name):
    cls, options, _ = OPTIMIZERS[name]
    half = nn.Linear(3, 2, bias=False).half()
    with pytest.raises(TypeError, match="float16"):
        cls(half.parameters(), **options)
    with pytest.raises(TypeError, match="one type"):
        cls([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))], **options)
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="twice"):
        cls([p, p], **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float64_works_throughout(name):
    net = network(name).double()
    cls, options, _ = OPTIMIZERS[name]
    opt = cls(net.parameters(), **options)
    x, y = data()
    with opt.sampled_params():
        F.cross_entropy(net(x.double()), y).backward()
    opt.step()
    assert all(p.dtype == torch.float64 for p in opt.mode_weights() + opt.sample_weights())


@pytest.mark.parametrize("name", ["ste", "bop", "pmf", "lrnet"])
def test_two_blocks_average_their_gradients(name):
    """Blocks on the halves of a batch give the step of the whole batch (no batch normalisation, no noise)."""
    cls, options, _ = OPTIMIZERS[name]
    x, y = data()
    ends = []
    for parts in (1, 2):
        torch.manual_seed(0)
        net = MLP(20, [32], 2, norm="scale").double()
        if name == "lrnet":
            net.layers[1] = nn.Linear(20, 32, bias=False).double()
            net = to_stochastic(net, keep_last=True)
        opt = cls(net.parameters(), seed=1, **options)
        for chunk, target in zip(x.double().chunk(parts), y.chunk(parts), strict=True):
            with opt.sampled_params():
                F.cross_entropy(_quiet(net)(chunk), target).backward()
        opt.step()
        ends.append([entry[key] for entry in opt.state_dict()["state"].values() for key in sorted(entry)])
    for one, two in zip(*ends, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def _quiet(net):
    """The same network without noise: stochastic layers pass on their mean."""

    def forward(x):
        for layer in net.layers:
            mean = getattr(getattr(layer, "weight", None), "holds_logits", None)
            x = F.linear(x, torch.tanh(layer.weight / 2)) if mean else layer(x)
        return x

    return forward


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_parameter_stays(name):
    net, opt = make(name)
    first = next(net.parameters())
    first.requires_grad_(False)
    before = copy.deepcopy(opt.state_dict()["state"][0])
    train(net, opt, 3)
    after = opt.state_dict()["state"][0]
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", BINARY)
def test_parameters_on_several_devices_are_refused(name):
    cls, options, _ = OPTIMIZERS[name]
    here, elsewhere = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match="parameters on cpu and meta: make one optimizer for each device"):
        cls([{"params": [here]}, {"params": [elsewhere]}], **options)
    opt = cls([here], **options)
    with pytest.raises(ValueError, match="one optimizer for each device"):
        opt.add_param_group({"params": [elsewhere]})
    assert opt.parameters() == [here]
