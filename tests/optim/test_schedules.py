import math

import numpy as np
import pytest
import torch
from torch import nn

from clbinn.optim import STE, Bop, CosineDecay, ExponentialDecay, StepDecay


def optimizer(lr=1e-2):
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=lr)


def walk(schedule, optimizer, steps, key="lr"):
    values = [optimizer.param_groups[0][key]]
    for _ in range(steps):
        schedule.step()
        values.append(optimizer.param_groups[0][key])
    return values


def test_cosine_is_torch_s_own():
    ours, theirs = optimizer(), optimizer()
    torch_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T_max=20, eta_min=1e-5)
    expected = [1e-2]
    for _ in range(20):
        theirs.step()
        torch_schedule.step()
        expected.append(theirs.param_groups[0]["lr"])
    assert walk(CosineDecay(ours, 20, 1e-5), ours, 20) == pytest.approx(expected, rel=1e-9)


def test_cosine_ends_and_stays():
    opt = optimizer()
    assert walk(CosineDecay(opt, 5, 1e-16), opt, 8)[5:] == [1e-16] * 4


def test_exponential_is_equation_27_with_the_exponent_that_ends_at_the_target():
    opt, steps = optimizer(1e-4), 50
    values = walk(ExponentialDecay(opt, steps, 1e-5), opt, steps)
    factor = (1e-5 / 1e-4) ** (1 / steps)
    value = 1e-4
    for seen in values:
        assert seen == pytest.approx(value, rel=1e-9)
        value *= factor
    assert values[-1] == 1e-5


def test_steps_at_an_interval_and_at_given_calls():
    opt = optimizer(1.0)
    assert walk(StepDecay(opt, 0.1, every=3), opt, 7) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    opt = optimizer(1.0)
    assert walk(StepDecay(opt, 0.1, every=[2, 5]), opt, 6) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_moves_any_value_and_every_group():
    net = nn.Linear(3, 2)
    opt = Bop([{"params": [net.weight]}, {"params": [net.bias], "adaptivity": 1e-2}], adaptivity=1e-3)
    StepDecay(opt, 10 ** (-3 / 500), every=1, key="adaptivity").step()
    assert [g["adaptivity"] for g in opt.param_groups] == pytest.approx([1e-3 * 10**-0.006, 1e-2 * 10**-0.006])


def test_a_loaded_state_goes_on():
    first, second = optimizer(), optimizer()
    one, two = CosineDecay(first, 10), CosineDecay(second, 10)
    walk(one, first, 4)
    two.load_state_dict(one.state_dict())
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"]
    assert walk(two, second, 3) == walk(one, first, 3)


def test_a_group_that_is_added_later_joins_in():
    opt = optimizer(1.0)
    schedule = StepDecay(opt, 0.1, every=2)
    walk(schedule, opt, 3)
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "lr": 3.0})
    schedule.step()
    assert [group["lr"] for group in opt.param_groups] == pytest.approx([0.01, 0.03])
    with pytest.raises(ValueError, match="saved for 2 parameter groups, there are 1"):
        CosineDecay(optimizer(), 10).load_state_dict(schedule.state_dict())


def test_numpy_integers_are_whole_numbers():
    opt = optimizer(1.0)
    assert walk(CosineDecay(opt, np.int64(2), 0.0), opt, 2) == pytest.approx([1, 0.5, 0])
    opt = optimizer(1.0)
    assert walk(StepDecay(opt, 0.5, np.int64(2)), opt, 2) == [1, 1, 0.5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineDecay(optimizer(), 0), "total"),
        (lambda: CosineDecay(optimizer(), 5, key="adaptivity"), "adaptivity"),
        (lambda: ExponentialDecay(optimizer(), 5, 0.0), "> 0"),
        (lambda: CosineDecay(optimizer(), 5, "1e-16"), "end must be finite and at least 0, got '1e-16'"),
        (lambda: ExponentialDecay(optimizer(), 5, "1e-16"), "end must be finite and at least 0, got '1e-16'"),
        (lambda: StepDecay(optimizer(), 0.0, every=1), "factor"),
        (lambda: StepDecay(optimizer(), "0.1", every=1), "factor must be positive and finite, got '0.1'"),
        (lambda: StepDecay(optimizer(), 0.1, every=2.5), "every must be at least 1 and a whole number"),
        (lambda: StepDecay(optimizer(), 0.1, every=True), "every"),
        (lambda: StepDecay(STE([nn.Parameter(torch.ones(2))]), math.inf, every=-1), "every"),
    ],
)
def test_bad_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_group_added_at_zero_cannot_decay_exponentially():
    opt = optimizer(1.0)
    schedule = ExponentialDecay(opt, 5, 1e-3)
    opt.add_param_group({"params": [nn.Parameter(torch.ones(2))], "lr": 0.0})
    with pytest.raises(ValueError, match=r"needs lr > 0 at the start and at the end; they are 0\.0, 0\.001"):
        schedule.step()


@pytest.mark.parametrize("make", [CosineDecay, ExponentialDecay])
def test_a_value_stays_at_its_end(make):
    opt = optimizer()
    schedule = make(opt, 3, 1e-3)
    values = []
    for _ in range(6):
        schedule.step()
        values.append(opt.param_groups[0]["lr"])
    assert values[2:] == [1e-3] * 4


def test_calls_of_a_step_decay_may_come_in_any_order():
    values = []
    for every in ([2, 4], [4, 2]):
        opt = optimizer()
        schedule = StepDecay(opt, 0.1, every)
        assert schedule.every == [2, 4]
        for _ in range(5):
            schedule.step()
        values.append(opt.param_groups[0]["lr"])
    assert values[0] == values[1]
