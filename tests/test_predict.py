"""Prediction against a loop that draws, runs and averages by hand."""

import copy

import pytest
import torch
from torch import nn

from clbinn.nn import MLP
from clbinn.nn.batch_norm import get_statistics, set_statistics, use_test_batch
from clbinn.nn.many import ByteInputs
from clbinn.optim import BayesBiNN
from clbinn.optim._noise import Noise
from clbinn.predict import estimate_batch_norm, predict_log_proba, predict_proba


@pytest.fixture(params=["mlp", "sequential"])
def pair(request):
    torch.manual_seed(0)
    net = MLP(12, [8, 8], 3) if request.param == "mlp" else nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.6, seed=1)
    net.train()
    net(torch.randn(64, 12))
    return net, opt


def by_hand(net, opt, x, count, seed, average="probabilities"):
    noise, outputs = Noise(seed), []
    for _ in range(count):
        with opt.weights(opt.sample_weights(noise)):
            net.eval()
            outputs.append(net(x).detach() if average == "logits" else net(x).detach().softmax(-1))
            net.train()
    mean = torch.stack(outputs).mean(0)
    return mean.softmax(-1) if average == "logits" else mean


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_mean_prediction_is_equation_26(pair, average):
    net, opt = pair
    x = torch.randn(23, 12)
    got = predict_proba(net, opt, x, 17, batch_size=10, seed=4, average=average)
    assert torch.allclose(got, by_hand(net, opt, x, 17, 4, average), atol=1e-5)
    assert torch.allclose(got.sum(1), torch.ones(23))
    assert net.training


def test_zero_samples_is_the_mode(pair):
    net, opt = pair
    x = torch.randn(5, 12)
    net.eval()
    assert torch.allclose(predict_proba(net, opt, x, 0), net(x).softmax(-1), atol=1e-6)
    assert all((p.abs() == 1).all() for p in net.parameters())


def test_the_mode_is_that_of_the_posterior_whatever_the_module_holds(pair):
    net, opt = pair
    x = torch.randn(5, 12)
    for natural in opt.natural_parameters():
        natural.neg_()
    with opt.weights(opt.mode_weights()):
        expected = net.eval()(x).softmax(-1)
    others = opt.sample_weights()
    with opt.weights(others):
        assert torch.allclose(predict_proba(net, opt, x, 0), expected, atol=1e-6)
        assert all(torch.equal(p, w) for p, w in zip(net.parameters(), others, strict=True))
    opt.natural_parameters()[0].neg_()
    mode = predict_proba(net, opt, x, 0)
    opt.restore()
    assert torch.allclose(mode, net(x).softmax(-1), atol=1e-6)


def test_a_seed_repeats_and_leaves_the_training_stream_alone(pair):
    net, opt = pair
    x, before = torch.randn(5, 12), opt.noise.state_dict()["cpu"]
    assert torch.equal(predict_proba(net, opt, x, 6, seed=2), predict_proba(net, opt, x, 6, seed=2))
    assert torch.equal(opt.noise.state_dict()["cpu"], before)
    predict_proba(net, opt, x, 6)
    assert not torch.equal(opt.noise.state_dict()["cpu"], before)


def test_results_do_not_depend_on_the_batch_size(pair):
    net, opt = pair
    x = torch.randn(40, 12)
    assert torch.allclose(
        predict_proba(net, opt, x, 5, batch_size=7, seed=0),
        predict_proba(net, opt, x, 5, batch_size=40, seed=0),
        atol=1e-6,
    )


def test_bytes_give_what_floats_give():
    net = MLP(12, [8], 3)
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.6, seed=1)
    x = ByteInputs(torch.randint(256, (30, 12), dtype=torch.uint8), 1 / 80, -0.4)
    assert torch.allclose(
        predict_log_proba(net, opt, x, 9, seed=0), predict_log_proba(net, opt, x.floats(), 9, seed=0), atol=1e-4
    )
    assert torch.allclose(predict_log_proba(net, opt, x, 0), predict_log_proba(net, opt, x.floats(), 0), atol=1e-4)


def test_log_probabilities_stay_finite():
    net = MLP(2, [], 2, norm="none", logit_scale=1e4)
    opt = BayesBiNN(net.parameters(), 1, init_natural=9.0, seed=0)
    assert predict_log_proba(net, opt, torch.ones(3, 2), 10).isfinite().all()


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_many_draws_under_autocast_are_summed_in_single_precision(average):
    torch.manual_seed(0)
    net = MLP(8, [16], 3, norm="scale")
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.3, seed=0)
    x = torch.randn(20, 8)
    for network in (net, nn.Sequential(net)):  # all draws at once, and one by one
        exact = predict_proba(network, opt, x, 600, average=average, seed=1)
        with torch.autocast("cpu", torch.bfloat16):
            got = predict_proba(network, opt, x, 600, average=average, seed=1)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, exact, rtol=0, atol=0.01)


def test_statistics_of_the_test_batch_leave_the_network_as_it_was():
    net = MLP(12, [8], 3)
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.6, seed=1)
    x, kept = torch.randn(50, 12) * 3, get_statistics(net)
    own = predict_proba(net, opt, x, 4, batch_norm="batch", batch_size=50, seed=0)
    net.eval()
    with use_test_batch(net):
        assert torch.allclose(own, by_hand(net, opt, x, 4, 0), atol=1e-5)
    for name, (mean, variance) in get_statistics(net).items():
        assert torch.equal(mean, kept[name][0])
        assert torch.equal(variance, kept[name][1])


def test_estimated_statistics_are_those_of_the_weights_that_predict():
    net = MLP(12, [8], 3)
    opt = BayesBiNN(net.parameters(), 10, init_natural=5.0, seed=1)
    x = torch.randn(400, 12)
    estimated = estimate_batch_norm(net, opt, x, mc_samples=0, batch_size=400)
    hidden = torch.relu(x @ opt.mode_weights()[0].T)
    mean, variance = estimated[next(iter(estimated))]
    assert torch.allclose(mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(variance, hidden.var(0), rtol=1e-4)
    set_statistics(net, estimated)
    net.eval()
    with use_test_batch(net):
        own = net(x)
    assert torch.allclose(net(x), own, atol=0.02)


@pytest.mark.parametrize("left_over", [1, 5])
def test_inputs_left_over_count_no_more_than_others_in_estimated_statistics(left_over):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 4, bias=False), torch.nn.BatchNorm1d(4, momentum=None))
    opt = BayesBiNN(net[0].parameters(), 10, init_natural=5.0, seed=1)
    x = torch.randn(400 + left_over, 6)
    x[-left_over:] *= 10
    net(x[:50])
    own = {name: value.clone() for name, value in net.state_dict().items()}
    _, variance = estimate_batch_norm(net, opt, x, mc_samples=0, batch_size=200)["1"]
    torch.testing.assert_close(variance, (x @ opt.mode_weights()[0].T).var(0), rtol=0.05, atol=0)
    for name, value in net.state_dict().items():
        assert torch.equal(value, own[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mc_samples": -1}, "mc_samples must be at least 0"),
        ({"average": "votes"}, "average must be"),
        ({"batch_norm": "task"}, "batch_norm must be one of running, batch"),
    ],
)
def test_bad_options_are_named(pair, options, message):
    net, opt = pair
    with pytest.raises(ValueError, match=message):
        predict_proba(net, opt, torch.ones(1, 12), **options)


class Wrapped(nn.Module):
    """A network whose output is something else than logits (n, classes)."""

    def __init__(self, output):
        super().__init__()
        self.linear, self.output = nn.Linear(12, 3), output

    def forward(self, x):
        return self.output(self.linear(x))


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda out: out[:, 0], ValueError, r"logits of shape \(n, classes\), got \(5,\)"),
        (lambda out: out.view(5, 1, 3), ValueError, r"logits of shape \(n, classes\), got \(5, 1, 3\)"),
        (lambda out: (out, out), TypeError, "one tensor of logits, got tuple"),
        (lambda out: out[:, :1], ValueError, "one output, whose softmax is 1"),
    ],
)
@pytest.mark.parametrize("mc_samples", [0, 2])
def test_outputs_that_are_no_logits_are_refused(output, error, message, mc_samples):
    net = Wrapped(output)
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    with pytest.raises(error, match=message):
        predict_proba(net, opt, torch.ones(5, 12), mc_samples)
    assert all((p.abs() == 1).all() for p in net.parameters())


@pytest.mark.parametrize("call", [predict_proba, estimate_batch_norm])
def test_what_can_not_predict_is_named(call):
    net = MLP(12, [8], 3)
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.1, seed=0)
    x = torch.randn(6, 12)
    for inputs in (x.numpy(), {"x": x}, [x]):
        with pytest.raises(TypeError, match=f"inputs must be one tensor .*, got {type(inputs).__name__}"):
            call(net, opt, inputs)
    with pytest.raises(ValueError, match="no weights of this network"):
        call(copy.deepcopy(net), opt, x)
    with pytest.raises(ValueError, match="mc_samples must be at least 0"):
        call(net, opt, x, -1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        call(net, opt, x, batch_size=0)
    with opt.sampled_params(), pytest.raises(RuntimeError, match="leave the block first"):
        call(net, opt, x, 0)


def test_statistics_need_inputs():
    net = MLP(12, [8], 3)
    with pytest.raises(ValueError, match="from no inputs"):
        estimate_batch_norm(net, BayesBiNN(net.parameters(), 10, seed=0), torch.ones(0, 12))


@pytest.mark.parametrize("mc_samples", [0, 2])
def test_prediction_inside_a_training_block_is_refused(pair, mc_samples):
    net, opt = pair
    with pytest.raises(RuntimeError, match="leave the block first"), opt.sampled_params():
        predict_proba(net, opt, torch.ones(2, 20), mc_samples)


@pytest.mark.parametrize("mc_samples", [0, 2])
def test_no_inputs_give_no_predictions(mc_samples):
    net = MLP(4, [3], 2, norm="scale")
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    assert predict_proba(net, opt, torch.ones(0, 4), mc_samples).shape == (0, 2)


@pytest.mark.parametrize("mc_samples", [0, 2])
@pytest.mark.parametrize(("inputs", "batch_size"), [(1, 10), (5, 1)])
def test_a_batch_of_one_has_no_statistics_of_its_own(inputs, batch_size, mc_samples):
    net = MLP(4, [3], 2)
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    x = torch.ones(inputs, 4)
    with pytest.raises(ValueError, match="a batch of one has no statistics"):
        predict_proba(net, opt, x, mc_samples, batch_norm="batch", batch_size=batch_size)
    assert predict_proba(net, opt, x, mc_samples, batch_size=batch_size).shape == (inputs, 2)


@pytest.mark.parametrize(("count", "batch_size"), [(5, 4), (7, 2), (13, 3), (21, 4)])
def test_no_last_batch_of_one_is_left_over(count, batch_size):
    net = MLP(4, [3], 2)
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    probs = predict_proba(net, opt, torch.randn(count, 4), 2, batch_size=batch_size, batch_norm="batch")
    assert probs.shape == (count, 2)


def test_layers_that_share_a_weight_predict():
    net = MLP(6, [6, 6], 6, norm="scale")
    net.layers[4].weight = net.layers[1].weight
    opt = BayesBiNN(net.parameters(), 10, init_natural=0.3, seed=0)
    x = torch.randn(5, 6)
    assert torch.allclose(predict_proba(net, opt, x, 6, seed=1), by_hand(net, opt, x, 6, 1), atol=1e-6)


def test_inputs_of_another_size_are_named():
    net = MLP(4, [3], 2, norm="scale")
    opt = BayesBiNN(net.parameters(), 10, seed=0)
    with pytest.raises(ValueError, match="takes 4 numbers for each input, got 5"):
        predict_proba(net, opt, torch.ones(2, 5), 3)


def test_prediction_leaves_each_modules_mode():
    net = MLP(12, [8, 8], 3)
    opt = BayesBiNN(net.parameters(), 10, seed=1)
    net.train()
    net.layers[2].eval()
    before = [module.training for module in net.modules()]
    predict_proba(net, opt, torch.randn(5, 12), 3)
    assert [module.training for module in net.modules()] == before
