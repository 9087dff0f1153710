"""A strategy between two tasks can be copied and pickled as any object, and the copy learns what it would have."""

import copy
import pickle

import pytest
import torch

from clbinn.strategies import EWC, SI, VCL, BayesBiNN, Joint, Naive, PerTask, SynapticMetaplasticity

KINDS = {
    BayesBiNN: {"temperature": 0.5, "init_natural": 0.0, "mc_samples": 2},
    EWC: {},
    Joint: {},
    Naive: {},
    PerTask: {},
    SI: {},
    SynapticMetaplasticity: {},
    VCL: {"num_samples": 2, "mc_samples": 2, "coreset_size": 5, "coreset_epochs": 1},
}


@pytest.mark.parametrize(
    "way", [copy.deepcopy, lambda strategy: pickle.loads(pickle.dumps(strategy))], ids=["copied", "pickled"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_as_the_strategy_does(kind, way, make_net, make_stream):
    stream = make_stream()
    strategy = kind(model=make_net(), evaluator=None, lr=1e-2, train_mb_size=20, train_epochs=2, **KINDS[kind])
    strategy.train(stream.train_stream[0])
    strategy.eval(stream.test_stream)
    strategy.experience = None  # the stream's data set is a class of this suite
    both = strategy, way(strategy)
    for each in both:
        torch.manual_seed(0)
        each.train(stream.train_stream[1])
    weights, other = (each.model.state_dict() for each in both)
    assert all(torch.equal(other[name], value) for name, value in weights.items())
    assert not set(strategy.model.parameters()) & set(both[1].model.parameters())
