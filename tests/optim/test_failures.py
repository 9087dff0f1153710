"""What is left of an optimizer after something went wrong, or after an option changed in the middle."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from clbinn.nn import MLP
from clbinn.nn.lrnet import to_stochastic
from clbinn.optim import PMF, STE, BayesBiNN, Bop, LRNet, _flat
from clbinn.strategies.synaptic_metaplasticity import MetaplasticAdam


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(_flat, "CHUNK", 64)
    return request.param


def parameter(*shape):
    return nn.Parameter(torch.zeros(*shape))


def bayesbinn(params, **options):
    options = {"num_data": 10, "lr": 0.1, "temperature": 1.0, "init_natural": 0.5, "seed": 0, **options}
    return BayesBiNN(params, **options)


def sample(opt, params):
    with opt.sampled_params():
        for p in params:
            p.grad = torch.ones_like(p)


def binary(*params):
    return all(bool((p.abs() == 1).all()) for p in params)


@pytest.mark.usefixtures("size")
def test_the_sample_stays_until_the_weights_are_put_back():
    p = parameter(200)
    opt = bayesbinn([p], temperature=0.1)
    opt.open_sample()
    drawn = p.detach().clone()
    p.grad = torch.ones_like(p)
    opt.close_sample(restore=False)
    assert torch.equal(p, drawn)


@pytest.mark.usefixtures("size")
def test_an_error_while_weights_are_drawn_leaves_the_mode():
    p = parameter(100)
    opt = bayesbinn([p])
    opt.param_groups[0]["temperature"] = 0.0
    with pytest.raises(ZeroDivisionError), opt.sampled_params():
        pass
    assert binary(p)
    assert not opt.sampling


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("method", ["_collect", "_update"])
def test_an_error_in_the_middle_drops_the_samples(method, monkeypatch):
    params = [parameter(100), parameter(50)]
    opt = bayesbinn([{"params": [params[0]]}, {"params": [params[1]]}])
    sample(opt, params)
    real = getattr(opt, method)

    def fail(group, *args):
        if group is opt.param_groups[1]:
            raise MemoryError
        real(group, *args)

    monkeypatch.setattr(opt, method, fail)
    with pytest.raises(MemoryError):  # noqa: PT012
        sample(opt, params)
        opt.step()
    monkeypatch.undo()
    assert binary(*params)
    with pytest.raises(RuntimeError, match="no gradients"):
        opt.step()


@pytest.mark.parametrize("second", [(torch.ones(()), torch.ones(3)), None])
def test_a_closure_that_gives_something_else_leaves_nothing_behind(second):
    layer = nn.Linear(3, 2, bias=False)
    opt = BayesBiNN(layer.parameters(), num_data=10, num_samples=2, seed=0)
    results = [torch.ones(()), second]

    def closure():
        (100 * layer.weight.sum()).backward()
        return results[-1] if isinstance(second, tuple) else results.pop(0)

    with pytest.raises(TypeError, match="a closure returns the loss"):
        opt.step(closure)
    assert (layer.weight.abs() == 1).all()
    with pytest.raises(RuntimeError, match="no gradients"):
        opt.step()


@pytest.mark.parametrize(
    ("kind", "wrong"), [(BayesBiNN, {"step": -1}), (STE, {"step": 0.5}), (PMF, {"beta": -1.0}), (PMF, {"beta": np.nan})]
)
def test_what_a_group_may_bring_along_is_checked(kind, wrong):
    options = {"num_data": 10} if kind is BayesBiNN else {}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind([{"params": [parameter(3)], **wrong}], **options)


def test_an_error_in_the_second_run_of_a_closure_drops_the_first():
    p = parameter(20)
    opt, calls = bayesbinn([p], num_samples=2), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        p.grad = torch.ones_like(p)

    with pytest.raises(MemoryError):
        opt.step(closure)
    assert [flat.samples for flat in opt._flat] == [0]
    assert binary(p)


def test_momentum_that_comes_in_beside_a_parameter_without_gradient():
    p, q = parameter(10), parameter(5)
    opt = bayesbinn([p, q])
    sample(opt, [p, q])
    opt.step()
    before = opt.natural_parameters()[1].clone()
    opt.param_groups[0]["momentum"] = 0.9
    sample(opt, [p])
    opt.step()
    assert torch.equal(opt.natural_parameters()[1], before)


@pytest.mark.parametrize(("first", "then"), [(0.9, 0.0), (0.0, 0.9)])
def test_a_state_saved_while_momentum_changes_goes_on_the_same(first, then):
    p, q = parameter(10), parameter(10)
    opt, twin = bayesbinn([p], momentum=first), bayesbinn([q])
    sample(opt, [p])
    opt.step()
    opt.param_groups[0]["momentum"] = then
    twin.load_state_dict(copy.deepcopy(opt.state_dict()))
    for one, params in ((opt, [p]), (twin, [q])):
        sample(one, params)
        one.step()
    assert torch.equal(opt.natural_parameters()[0], twin.natural_parameters()[0])


def test_a_state_that_does_not_fit_changes_nothing():
    p = parameter(10)
    opt = bayesbinn([p])
    sample(opt, [p])
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises(ValueError, match="does not fit parameter 0"):
        opt.load_state_dict(bayesbinn([parameter(11)], lr=0.5).state_dict())
    after = opt.state_dict()
    assert torch.equal(before["state"][0]["natural"], after["state"][0]["natural"])
    assert before["param_groups"] == after["param_groups"]
    assert torch.equal(before["noise"]["cpu"], after["noise"]["cpu"])


@pytest.mark.parametrize("left", [False, True])
def test_a_gradient_that_was_cut_short_is_refused(left):
    p = parameter(20_000)
    opt = bayesbinn([p])
    opt.open_sample()
    p.grad = torch.ones(20_000)
    p.grad.data = torch.zeros(10)
    if left:
        opt.close_sample(restore=False)
    with pytest.raises(RuntimeError, match="a gradient is not as long as its parameter"):
        opt.step() if left else opt.close_sample()
    assert (p.abs() == 1).all()


@pytest.mark.parametrize("kind", [torch.tensor, Fraction, np.float32])
def test_numbers_of_other_kinds_do(kind):
    values = []
    for given in (kind(2), 2.0):
        p = parameter(10)
        opt = bayesbinn([p], num_data=given)
        opt.open_sample()
        p.grad = torch.ones(10)
        opt.close_sample(restore=False)
        opt.step()
        values.append(opt.natural_parameters()[0].clone())
    assert torch.equal(*values)


def test_a_new_group_has_the_number_of_samples_of_the_others():
    opt = bayesbinn([parameter(10)], num_samples=3)
    opt.add_param_group({"params": [parameter(3)]})
    assert opt.param_groups[1]["num_samples"] == 3


def test_a_refused_group_is_not_there():
    p, q = parameter(10), parameter(3)
    opt = bayesbinn([p])
    with pytest.raises(ValueError, match="lr"):
        opt.add_param_group({"params": [q], "lr": -1.0})
    sample(opt, [p, q])
    opt.step()
    assert len(opt.param_groups) == 1
    assert bool((q == 0).all())


@pytest.mark.parametrize(
    ("cls", "option", "message"),
    [
        (STE, {"eps": 0.5}, "eps can't be given for one group of STE; its groups have adam_eps, betas"),
        (PMF, {"seed": 1, "eps": 0.5}, "eps, seed can't be given for one group of PMF"),
        (bayesbinn, {"init_natural": 0.0}, "init_natural can't be given for one group of BayesBiNN"),
    ],
)
def test_an_option_that_a_group_would_ignore_is_refused(cls, option, message):
    with pytest.raises(ValueError, match=message):
        cls([{"params": [parameter(3)]}, {"params": [parameter(3)], **option}])
    opt = cls([parameter(3)])
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": [parameter(3)], **option})
    opt.add_param_group({"params": [parameter(3)], "name": "head"})
    assert len(opt.param_groups) == 2


def test_groups_are_not_added_inside_a_block():
    opt = bayesbinn([parameter(10)])
    with opt.sampled_params(), pytest.raises(RuntimeError, match="leave the block"):
        opt.add_param_group({"params": [parameter(3)]})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@pytest.mark.parametrize("cls", [STE, Bop, PMF, MetaplasticAdam])
def test_empty_parameters(cls, shape):
    p, q = parameter(*shape), parameter(2, 3)
    opt = cls([p, q], seed=0)
    sample(opt, [p, q])
    opt.step()
    assert binary(p, q)


def test_empty_groups():
    net = to_stochastic(MLP(4, [3], 2))
    assert len(LRNet([{"params": list(net.parameters())}, {"params": []}]).logits()) == 1
    opt = MetaplasticAdam([{"params": [parameter(3)]}, {"params": []}], seed=0)
    opt.restart()
    assert binary(*opt.param_groups[0]["params"])


def test_a_numpy_seed_is_saved_as_a_plain_number(tmp_path):
    opt = STE([parameter(3)], seed=np.int64(3))
    torch.save(opt.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["noise"]["seed"] == 3


def test_weights_that_were_replaced_are_noticed():
    p = parameter(10)
    opt = STE([p], seed=0)
    p.data = torch.zeros(10)
    opt.restore()
    assert binary(p)


def test_a_block_inside_other_weights_gives_them_back():
    p = parameter(50)
    opt = bayesbinn([p])
    mine = [torch.full((50,), 0.25)]
    with opt.weights(mine):
        sample(opt, [p])
        assert torch.equal(p, mine[0])
    assert binary(p)


def test_stochastic_weights_stay_so_through_a_pickle():
    net = to_stochastic(MLP(4, [3], 2))
    opt = LRNet(net.parameters(), seed=0)
    twin, again = pickle.loads(pickle.dumps((net, opt)))
    assert len(again.logits()) == len(opt.logits()) == 1
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_an_error_while_samples_are_drawn_leaves_binary_weights(monkeypatch):
    params = [parameter(100), parameter(50)]
    opt, drawn = bayesbinn(params), []
    real = opt._training_weights

    def fail(group, piece):
        drawn.append(piece)
        if len(drawn) > 1:
            raise KeyboardInterrupt
        real(group, piece)

    monkeypatch.setattr(opt, "_training_weights", fail)
    with pytest.raises(KeyboardInterrupt):
        opt.open_sample()
    assert binary(*params)


def test_state_that_was_moved_to_shared_memory_is_still_what_is_learned():
    results = []
    for shared in (False, True):
        p = parameter(200)
        opt = bayesbinn([p])
        sample(opt, [p])
        opt.step()
        if shared:
            opt.natural_parameters()[0].share_memory_()
        sample(opt, [p])
        opt.step()
        results.append((opt.natural_parameters()[0].clone(), p.detach().clone()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("rows", [2, 9])
def test_a_parameter_that_changed_its_size_is_refused(inside, rows):
    p = parameter(6, 4)
    opt = bayesbinn([p])
    sample(opt, [p])
    opt.step()
    if not inside:
        p.data = torch.zeros(rows, 4)
        with pytest.raises(RuntimeError, match="had 24 when its state was made"):
            opt.open_sample()
        return
    opt.open_sample()
    p.data = torch.zeros(rows, 4)
    p.grad = torch.ones(rows, 4)
    opt.close_sample(restore=False)
    with pytest.raises(RuntimeError, match="had 24 when its state was made"):
        opt.step()


def test_a_layout_that_changes_inside_a_block_changes_nothing():
    p = nn.Parameter(torch.zeros(4, 3, 2, 2))
    opt = bayesbinn([p])
    opt.open_sample()
    p.data = p.data.contiguous(memory_format=torch.channels_last)
    p.grad = torch.ones_like(p)
    opt.close_sample(restore=False)
    opt.step()
    assert binary(p)
    assert torch.equal(p, opt.mode_weights()[0])


def test_options_may_be_tensors():
    results = []
    for kind in (float, torch.tensor):
        p = parameter(20)
        opt = bayesbinn([p], lr=kind(0.5), prior_weight=kind(2.0))
        sample(opt, [p])
        opt.step()
        results.append(opt.natural_parameters()[0].clone())
    assert torch.equal(*results)


def test_zero_grad_keeps_a_sample_that_was_left_to_the_step():
    results = []
    for to_none in (None, True, False):
        p = parameter(20)
        opt = bayesbinn([p])
        opt.open_sample()
        p.grad = torch.ones(40)[10:30]  # a view, as in a bucket of gradients
        opt.close_sample(restore=False)
        if to_none is not None:
            opt.zero_grad(set_to_none=to_none)
            assert p.grad is None if to_none else not p.grad.any()
        opt.step()
        results.append(opt.natural_parameters()[0].clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
