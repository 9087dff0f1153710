"""What a GPU needs, on machines without one: every tensor on the card, and nothing read back in the inner loop.

Under torch's fake tensors operations have devices and shapes and no numbers: one that mixes devices, or that asks for a
number (and would wait for the card), is an error. The backward pass needs a real card; gradients are made up here.
LR-net is not among the optimizers: torch's fake tensors can't be of its own class of parameters.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from clbinn import predict
from clbinn.benchmarks import TensorLoader, TensorTask, resident
from clbinn.benchmarks.loading import MemoryLoader, ParallelLoader
from clbinn.nn import MLP
from clbinn.nn.many import ByteInputs
from clbinn.optim import PMF, STE, BayesBiNN, Bop, _noise
from clbinn.strategies.synaptic_metaplasticity import MetaplasticAdam

CARD = torch.device("cuda", 0)

OPTIMIZERS = {
    "bayesbinn": lambda p: BayesBiNN(p, num_data=100, seed=0),
    "bayesbinn_momentum": lambda p: BayesBiNN(p, num_data=100, momentum=0.9, seed=0),
    "bayesbinn_mean": lambda p: BayesBiNN(p, num_data=100, training_weights="mean", seed=0),
    "ste": lambda p: STE(p, seed=0),
    "bop": lambda p: Bop(p, seed=0),
    "pmf": lambda p: PMF(p, seed=0),
    "pmf_identity": lambda p: PMF(p, jacobian="identity", seed=0),
    "metaplastic": lambda p: MetaplasticAdam(p, seed=0),
}


class CardsGenerator(torch.Generator):
    """Stands for a generator of the card, which can't be made without one."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    @property
    def device(self):
        return CARD


@pytest.fixture(autouse=True)
def card(monkeypatch):
    class Torch:
        Generator = CardsGenerator

        def __getattr__(self, name):
            return getattr(torch, name)

    monkeypatch.setattr(_noise, "torch", Torch())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


def network():
    with CARD:
        return MLP(36, [16, 16], 10)


def learn(net, opt, x, y):
    for _ in range(2):
        with opt.sampled_params():
            F.cross_entropy(net(x), y)
            for p in net.parameters():
                p.grad = torch.empty_like(p)
    opt.step()


def devices(opt):
    state = [tensor for flat in opt._flat for tensor in flat.tensors.values()]
    return {tensor.device for tensor in [*state, *opt.parameters(), *opt.sample_weights()]}


def test_reading_a_number_back_and_mixing_devices_are_errors_here():
    with FakeTensorMode():
        x = torch.ones(3, device=CARD)
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):
            x.sum().item()
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_stay_on_the_card_and_wait_for_nothing(name):
    with FakeTensorMode():
        net = network()
        opt = OPTIMIZERS[name](net.parameters())
        x, y = torch.ones(8, 36, device=CARD), torch.zeros(8, dtype=torch.long, device=CARD)
        for _ in range(3):
            learn(net, opt, x, y)
        opt.state_dict()
        assert devices(opt) == {CARD}


def test_the_prior_is_carried_on_the_card():
    with FakeTensorMode():
        net = network()
        opt = OPTIMIZERS["bayesbinn"](net.parameters())
        opt.carry_prior()
        assert {prior.device for prior in opt.prior_natural_parameters()} == {CARD}


def test_parts_of_the_state_that_were_made_anew_are_the_ones_worked_on():
    with FakeTensorMode():
        flat = OPTIMIZERS["bayesbinn_momentum"](network().parameters())._flat[0]
        first = flat.pieces()[0].state["momentum"]
        for wanted in (set(), {"momentum"}):
            flat.keep_parts({"momentum"}, wanted)
            assert flat.tensors.keys() == {"natural", "prior_natural"} | wanted
            assert flat.pieces()[0].state.keys() == flat.tensors.keys()
        assert flat.pieces()[0].state["momentum"] is not first


@pytest.mark.parametrize("name", ["bayesbinn", "ste"])
@pytest.mark.parametrize("mc_samples", [0, 3])
@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_predictions_come_out_on_the_card(name, mc_samples, batch_norm):
    with FakeTensorMode():
        net = network()
        opt = OPTIMIZERS[name](net.parameters())
        x = torch.ones(30, 36)  # on the CPU, as a user may have it
        found = predict.predict_log_proba(net, opt, x, mc_samples, batch_size=20, batch_norm=batch_norm)
        assert (found.device, found.shape) == (CARD, (30, 10))


def test_bytes_are_predicted_on_the_card():
    with FakeTensorMode():
        net = network()
        opt = OPTIMIZERS["bayesbinn"](net.parameters())
        x = ByteInputs(torch.zeros(30, 36, dtype=torch.uint8, device=CARD), 1 / 255, -0.5)
        assert predict.predict_log_proba(net, opt, x, 3).device == CARD


def digits():
    images = torch.zeros(20, 1, 6, 6, dtype=torch.uint8)
    return resident(TensorTask(images, torch.zeros(20, dtype=torch.long), permutation=torch.randperm(36)))


LOADERS = {
    "one": lambda data: iter(TensorLoader(data, 8, shuffle=True, device=CARD)),
    "side by side": lambda data: iter(ParallelLoader([data, data], [8, 4], 0, True, device=CARD)),
    "memory": lambda data: iter([MemoryLoader([data], 8, (0,), CARD).batch(0)]),
}


@pytest.mark.parametrize("name", LOADERS)
def test_mini_batches_are_made_on_the_card(name):
    data = digits()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for batch in LOADERS[name](data):
            assert {tensor.device for tensor in batch} == {CARD}
