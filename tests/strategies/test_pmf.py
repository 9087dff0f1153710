from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clbinn.errors import UserError
from clbinn.experiments.run import run
from clbinn.recipes import load_benchmark, load_strategy
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
