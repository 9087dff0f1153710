from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.core import SupervisedPlugin

from clbinn.errors import UserError
from clbinn.experiments.run import run
from clbinn.optim import PMF
from clbinn.recipes import load_benchmark, load_strategy
from clbinn.strategies.naive import Naive
from clbinn.strategies.pmf import SoftStart

QUICK = ["train.epochs=8", "train.batch_size=50", "model.hidden=[50]"]
HARDENING = ["optimizer.options={lr: 1e-2, rho: 1.2, rho_interval: 4}"]


def second_task(strategy, out):
    benchmark = load_benchmark("permuted_digits", ["tasks.count=2"])
    path = run(benchmark, strategy, 0, out, device="cpu", progress=False)
    return np.loadtxt(path / "accuracy_matrix.csv", delimiter=",", skiprows=1)[2, 2]


def test_a_second_task_is_learned_with_a_soft_start_and_not_without(tmp_path):
    strategy = load_strategy("pmf", [*QUICK, *HARDENING])
    assert second_task(strategy, tmp_path) > 0.8
    hard = strategy.model_copy(update={"plugins": strategy.plugins[:1]})
    assert second_task(hard, tmp_path) < 0.6


def test_another_optimizer_is_refused():
    strategy = SimpleNamespace(optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1))
    with pytest.raises(UserError, match=r"PMF, not SGD"):
        SoftStart().before_training_exp(strategy)


def test_the_softmax_starts_anew_once_a_task(make_net, make_stream):
    net = make_net(bias=False)
    strategy = Naive(
        model=net,
        optimizer=PMF(net.parameters(), rho=2.0, rho_interval=1, seed=0),
        plugins=[SoftStart()],
        evaluator=None,
        train_mb_size=20,
    )

    class Block(SupervisedPlugin):
        def before_forward(self, s, **_):
            s.optimizer.open_sample()

        def before_update(self, s, **_):
            s.optimizer.close_sample()

    strategy.plugins.append(Block())
    betas = []
    for part in split_online_stream(make_stream(2).train_stream, 20, access_task_boundaries=True):
        strategy.train(part)
        betas.append(strategy.optimizer.param_groups[0]["beta"])
    assert betas == [2, 4, 8] * 2
