import copy
import math

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from avalanche.models import MultiHeadClassifier, MultiTaskModule
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import GDumbPlugin, ReplayPlugin
from torch import nn

from clbinn.benchmarks.dataset import TensorTask
from clbinn.errors import UserError
from clbinn.nn import MLP
from clbinn.strategies._gaussian import gaussian_layers
from clbinn.strategies.multi_head import MultiHead
from clbinn.strategies.vcl import VCL, log_mean_probability


class Heads(MultiTaskModule):
    """One hidden layer and a head for each task."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Linear(12, 8)
        self.classifier = MultiHeadClassifier(8, 2, masking=False)

    def forward(self, x, task_labels):
        return self.classifier(self.features(x).relu(), task_labels)


class Skip(torch.nn.Module):
    """A layer beside its own input."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(12, 12)

    def forward(self, x):
        return x + self.inner(x).relu()


class Positions(torch.nn.Module):
    """One layer on each of three positions."""

    def __init__(self):
        super().__init__()
        self.each, self.out = torch.nn.Linear(4, 16), torch.nn.Linear(48, 3)

    def forward(self, x):
        return self.out(self.each(x.view(-1, 3, 4)).relu().flatten(1))


NETWORKS = {
    "skip": lambda: torch.nn.Sequential(Skip(), torch.nn.Linear(12, 3)),
    "positions": Positions,
    "positions in a chain": lambda: torch.nn.Sequential(
        torch.nn.Unflatten(1, (3, 4)),
        torch.nn.Linear(4, 16),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(48, 3),
    ),
}


def test_log_mean_probability_is_the_mean_of_softmax():
    torch.manual_seed(0)
    logits = torch.randn(6, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(log_mean_probability(logits).exp(), logits.softmax(-1).mean(0))


def test_the_prior_of_a_task_is_the_posterior_of_the_one_before(make_vcl, make_stream):
    strategy, stream = make_vcl(), make_stream()
    strategy.train(stream.train_stream[0])
    posterior = copy.deepcopy(dict(strategy.model.named_parameters()))
    strategy.train(stream.train_stream[1])
    priors = dict(strategy.model.named_buffers())
    for name, value in posterior.items():
        prior = name.replace("_log_variance", "_prior_log_variance") if "log" in name else f"{name}_prior_mean"
        assert torch.equal(priors[prior], dict(strategy.model.named_parameters())[name])  # carried again at the end
        assert not torch.equal(priors[prior], value)


def test_during_a_task_the_prior_stays(make_vcl, make_stream):
    strategy, stream = make_vcl(), make_stream()
    strategy.train(stream.train_stream[0])
    carried = copy.deepcopy(dict(strategy.model.named_buffers()))
    end, strategy._after_training_exp = strategy._after_training_exp, lambda **_: None
    strategy.train(stream.train_stream[1])
    for name, value in strategy.model.named_buffers():
        assert torch.equal(value, carried[name])
    assert strategy.kl() > 0
    end()
    torch.testing.assert_close(strategy.kl(), torch.zeros(()))


def test_the_loss_is_mean_cross_entropy_plus_kl_over_n(make_vcl):
    strategy = make_vcl()
    torch.manual_seed(0)
    logits, y = torch.randn(4, 20, 3), torch.arange(20) % 3
    means = torch.stack([torch.nn.functional.cross_entropy(one, y) for one in logits])
    torch.testing.assert_close(strategy._variational_loss(logits, y, 60), means.mean() + strategy.kl() / 60)


def test_means_start_at_maximum_likelihood_and_variances_as_told(make_vcl, make_stream, listen):
    stream = make_stream()
    started = make_vcl(init_epochs=30, train_epochs=1, init_log_variance=-20.0)
    plain = make_vcl(init_epochs=0, train_epochs=1, init_log_variance=-20.0)
    kept = {name: p.clone() for name, p in plain.model.named_parameters()}
    seen = {}
    for name, strategy in (("started", started), ("plain", plain)):

        def keep(name=name, strategy=strategy):
            seen.setdefault(name, copy.deepcopy(dict(strategy.model.named_parameters())))

        listen(strategy, "before_forward", keep)
        strategy.train(stream.train_stream[0])
    for name, value in kept.items():
        assert torch.equal(seen["plain"][name], value)
        if "log_variance" in name:
            assert torch.equal(seen["started"][name], torch.full_like(value, -20.0))
        else:
            assert not torch.equal(seen["started"][name], value)


def test_it_learns_and_predicts_log_probabilities(make_vcl, make_stream, evaluate):
    for local in (False, True):
        strategy, stream = make_vcl(train_epochs=20, local_reparameterisation=local), make_stream()
        strategy.train(stream.train_stream[0])
        outputs, accuracy = evaluate(strategy, stream.test_stream[0])
        assert accuracy > 0.85
        torch.testing.assert_close(outputs.exp().sum(1), torch.ones(60))


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_other_networks_of_linear_layers_are_learned(kind, local, make_vcl, make_stream, evaluate):
    torch.manual_seed(0)
    strategy = make_vcl(NETWORKS[kind](), train_epochs=20, local_reparameterisation=local)
    stream = make_stream(1, count=120)
    strategy.train(stream.train_stream[0])
    assert evaluate(strategy, stream.test_stream[0])[1] > 0.85


def test_prediction_is_the_mean_over_weight_samples(make_vcl, make_stream, evaluate):
    strategy, stream = make_vcl(mc_samples=4000, init_log_variance=-2.0), make_stream()
    outputs, _ = evaluate(strategy, stream.test_stream[0])
    x = torch.stack([sample[0] for sample in stream.test_stream[0].dataset])
    first, second = gaussian_layers(strategy.model).values()
    torch.manual_seed(0)
    total = torch.zeros(60, 3)
    for _ in range(4000):
        hidden = x
        for one, last in ((first, False), (second, True)):
            values = {name: mean + math.exp(-1.0) * torch.randn_like(mean) for name, mean in one.means()}
            hidden = hidden @ values["weight"].t() + values["bias"]
            hidden = hidden if last else hidden.relu()
        total += hidden.softmax(1).detach()
    torch.testing.assert_close(outputs.exp(), total / 4000, atol=0.03, rtol=0)


def test_evaluation_does_not_touch_training(make_vcl, make_stream):
    weights = []
    for evaluations in (0, 2):
        strategy, stream = make_vcl(coreset_size=5, coreset_epochs=2), make_stream()
        for experience in stream.train_stream:
            torch.manual_seed(1)
            strategy.train(experience)
            for _ in range(evaluations):
                strategy.eval(stream.test_stream)
        weights.append(strategy.model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


def test_a_copy_of_the_network_takes_its_place(make_vcl, make_stream):
    strategy = make_vcl(train_epochs=1, plugins=[GDumbPlugin(30)])
    strategy.train(make_stream().train_stream)
    assert all(layer.draw is strategy.draw for layer in gaussian_layers(strategy.model).values())


def test_the_parts_of_an_experience_are_one_task(make_vcl, make_stream, listen):
    strategy, stream, sizes = make_vcl(train_epochs=1), make_stream(2), []
    loss = strategy._variational_loss
    strategy._variational_loss = lambda logits, y, n: sizes.append(n) or loss(logits, y, n)
    first = {name: layer.weight_prior_mean.clone() for name, layer in gaussian_layers(strategy.model).items()}
    moved = []
    for part in split_online_stream(stream.train_stream, 20, access_task_boundaries=True):
        strategy.train(part)
        layers = gaussian_layers(strategy.model).items()
        moved.append(any(not torch.equal(layer.weight_prior_mean, first[name]) for name, layer in layers))
        first = {name: layer.weight_prior_mean.clone() for name, layer in layers}
    assert moved == [False, False, True] * 2
    assert set(sizes) == {60}, "N is the task's, not the part's"


@pytest.mark.parametrize("local", [False, True])
def test_heads_learn_from_batches_of_several_tasks(local, make_stream):
    stream = make_stream(2, labelled=True)
    strategy = VCL(
        model=MultiHead(MLP(12, [16], 3, norm="none")),
        plugins=[ReplayPlugin(20)],
        evaluator=None,
        train_mb_size=10,
        train_epochs=2,
        num_samples=4,
        mc_samples=4,
        local_reparameterisation=local,
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    model = strategy.model.eval()
    x, task = torch.randn(6, 12), torch.tensor([0, 1, 0, 0, 1, 1])
    mixed = strategy._sampled_logits(x, task, 4000, torch.Generator().manual_seed(0)).mean(0)
    for label in (0, 1):
        means = avalanche_forward(model, x[task == label], task[task == label])
        torch.testing.assert_close(mixed[task == label], means, atol=0.2, rtol=0.1)


def test_heads_that_come_later_are_gaussian(make_vcl, make_stream, evaluate):
    torch.manual_seed(0)
    strategy = make_vcl(model=Heads(), train_epochs=20, coreset_size=6, coreset_epochs=3)
    stream = make_stream(count=180, labelled=True)
    for experience in stream.train_stream:
        strategy.train(experience)
    assert "classifier.classifiers.1.classifier" in gaussian_layers(strategy.model)
    assert min(evaluate(strategy, experience)[1] for experience in stream.test_stream) > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"mc_samples": 0}, "mc_samples must be at least 1"),
        ({"prior_variance": 0.0}, "prior_variance must be greater than 0"),
        ({"coreset_size": -1}, "coreset_size must be at least 0"),
        ({"coreset_epochs": -1}, "coreset_epochs must be at least 0"),
        ({"init_epochs": -1}, "init_epochs must be at least 0"),
        ({"prior_variance": math.inf}, "prior_variance must be greater than 0 and finite"),
        ({"init_log_variance": math.nan}, "init_log_variance must be finite"),
        ({"coreset": "best"}, "coreset must be random or k_centre"),
        ({"lr": 0.0}, "lr must be greater than 0"),
    ],
)
def test_bad_options_are_told(make_vcl, options, message):
    with pytest.raises(UserError, match=message):
        make_vcl(**options)


def test_a_network_with_learned_gains_is_refused():
    net = torch.nn.Sequential(MLP(12, [4], 3, norm="none"), torch.nn.LayerNorm(3))
    with pytest.raises(UserError, match="LayerNorm has parameters too"):
        VCL(model=net, evaluator=None)


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_would_become_others_are_refused():
    with pytest.raises(UserError, match="Doubled has parameters too"):
        VCL(model=torch.nn.Sequential(Doubled(12, 3)), evaluator=None)
    with pytest.raises(UserError, match="two layers of this network share a weight"):
        VCL(model=torch.nn.Sequential(*[torch.nn.Linear(12, 12)] * 2, torch.nn.Linear(12, 3)), evaluator=None)


def test_a_head_that_was_not_trained_keeps_the_first_prior(make_vcl, make_stream):
    torch.manual_seed(0)
    strategy, stream = make_vcl(Heads()), make_stream(labelled=True)
    strategy.eval(stream.test_stream)  # both heads are there
    strategy.train(stream.train_stream[0])
    heads = {name: layer for name, layer in gaussian_layers(strategy.model).items() if "classifier" in name}
    untouched = [layer for layer in heads.values() if not layer.learned]
    assert len(untouched) == 1
    assert not untouched[0].weight_prior_mean.any()
    assert not untouched[0].weight_prior_log_variance.any()


def test_the_prior_has_the_variance_that_it_is_given(make_net):
    strategy = VCL(model=make_net(), evaluator=None, prior_variance=4.0)
    total = torch.zeros(())
    for layer in gaussian_layers(strategy.model).values():
        layer.learned.fill_(True)
        for name, mean in layer.means():
            q = torch.distributions.Normal(mean, torch.exp(layer.get_parameter(f"{name}_log_variance") / 2))
            total = total + torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 2.0)).sum()
    torch.testing.assert_close(strategy.kl(), total)


def test_maximum_likelihood_comes_first_for_as_many_epochs(make_net, make_stream):
    calls = []

    class Counted(nn.CrossEntropyLoss):
        def forward(self, out, y):
            calls.append(len(out))
            return super().forward(out, y)

    strategy = VCL(
        model=make_net(), evaluator=None, num_samples=2, train_epochs=4, train_mb_size=20, criterion=Counted()
    )
    strategy.train(make_stream(1).train_stream[0])
    assert calls == [20] * 12 + [40] * 12


def test_a_head_of_a_task_to_come_stays(make_net, make_stream):
    stream = make_stream(labelled=True)
    strategy = VCL(
        model=MultiHead(make_net()), evaluator=None, num_samples=2, mc_samples=2, init_epochs=0, train_mb_size=20
    )
    strategy.eval(stream.test_stream)
    before = copy.deepcopy(strategy.model.heads["1"].state_dict())
    strategy.train(stream.train_stream[0])
    for name, value in strategy.model.heads["1"].state_dict().items():
        assert torch.equal(value, before[name]), name


def resident():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    data = _make_taskaware_classification_dataset(TensorTask(x, torch.arange(60) % 3), task_labels=0)
    return benchmark_from_datasets(train=[data], test=[data])


def test_the_order_of_the_first_epoch_is_the_same_after_maximum_likelihood(make_net, listen):
    seen = {}
    for epochs in (0, 2):
        strategy = VCL(
            model=make_net(),
            evaluator=None,
            num_samples=1,
            mc_samples=1,
            init_epochs=epochs,
            train_epochs=2,
            train_mb_size=20,
        )
        seen[epochs] = []
        listen(strategy, "before_forward", lambda s=strategy, e=epochs: seen[e].append(s.mb_x.clone()))
        strategy.train(resident().train_stream[0])
    assert torch.equal(torch.cat(seen[0]), torch.cat(seen[2]))
