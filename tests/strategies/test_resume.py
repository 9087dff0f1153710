"""Each strategy, interrupted at the start of an epoch, goes on to the very same weights."""

import copy

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate

from clbinn import strategies
from clbinn.experiments.checkpoint import require_plain
from clbinn.experiments.strategy_state import gather, restore
from clbinn.strategies.ewc import EWC
from clbinn.strategies.joint import Joint
from clbinn.strategies.naive import Naive
from clbinn.strategies.per_task import PerTask
from clbinn.strategies.si import SI
from clbinn.strategies.synaptic_metaplasticity import SynapticMetaplasticity
from clbinn.strategies.vcl import VCL

CASES = {
    "naive": (Naive, {}),
    "joint": (Joint, {}),
    "per_task": (PerTask, {}),
    "ewc": (EWC, {"strength": 10.0}),
    "ewc_online": (EWC, {"strength": 10.0, "decay": 0.9}),
    "si": (SI, {"strength": 1.0}),
    "vcl": (VCL, {"num_samples": 2, "mc_samples": 2}),
    "vcl_coreset": (VCL, {"num_samples": 2, "mc_samples": 2, "coreset_size": 5, "coreset_epochs": 2}),
    "synaptic_metaplasticity": (SynapticMetaplasticity, {}),
}


def test_every_strategy_is_here():
    kinds = {getattr(strategies, name) for name in set(strategies.__all__) - {"BayesBiNN"}}  # see test_bayesbinn.py
    kinds = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, SupervisedTemplate)}
    assert kinds == {kind for kind, _ in CASES.values()}


class At(SupervisedPlugin):
    """Does something at the start of one epoch of one task, and notes the plugins that a checkpoint holds."""

    def __init__(self, task, epoch, action):
        super().__init__()
        self.place, self.action = (task, epoch), action

    def before_training_epoch(self, strategy, **_):
        if self.place == (strategy.experience.current_experience, strategy.clock.train_exp_epochs):
            self.place = None
            self.action(strategy)


@pytest.fixture
def make(make_net):
    def make(name, plugin):
        kind, options = CASES[name]
        binary = kind is SynapticMetaplasticity
        model = make_net(norm="batch", bias=False) if binary else make_net()
        return kind(model=model, plugins=[plugin], evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=3, **options)

    return make


@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_run_ends_in_the_same_weights(name, epoch, make, make_stream, evaluate):
    stream, kept = make_stream(tasks=3), {}

    def keep(strategy):
        kept["state"] = copy.deepcopy(gather(strategy, strategy.plugins))
        kept["random"] = torch.get_rng_state()

    whole = make(name, At(1, epoch, keep))
    torch.manual_seed(0)
    for experience in stream.train_stream:
        whole.train(experience)
    require_plain(kept["state"])

    def bring_back(strategy):
        restore(strategy, strategy.plugins, kept["state"])
        torch.set_rng_state(kept["random"])
        strategy.train_epochs = 3 - epoch

    resumed = make(name, At(1, 0, bring_back))
    torch.manual_seed(5)
    resumed.train_epochs = 3 - epoch
    resumed.train(stream.train_stream[1])
    resumed.train_epochs = 3
    resumed.train(stream.train_stream[2])
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    for experience in stream.test_stream:
        assert torch.equal(evaluate(resumed, experience)[0], evaluate(whole, experience)[0])
