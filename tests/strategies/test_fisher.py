import pytest
import torch
from avalanche.models import MultiTaskModule
from torch import nn
from torch.nn.utils import parametrizations, prune

from clbinn.strategies.fisher import fisher_diagonal


class Recurrent(nn.Module):
    """The last state of a recurrent layer, read out."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.out = kind(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.recurrent(x)[0][:, -1])


class Cell(nn.Module):
    """A recurrent network written by hand: its linear layers see a sample once a step."""

    def __init__(self):
        super().__init__()
        self.into, self.on, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        state = x.new_zeros(len(x), 5)
        for step in x.unbind(1):
            state = torch.tanh(self.into(step) + self.on(state))
        return self.out(state)


class Positions(nn.Module):
    """A linear layer on each position of a sequence, as it is or as rows of one long batch."""

    def __init__(self, rows=False):
        super().__init__()
        self.each, self.out, self.rows = nn.Linear(4, 5), nn.Linear(5, 3), rows

    def forward(self, x):
        each = self.each(x.flatten(0, 1)).view(len(x), -1, 5) if self.rows else self.each(x)
        return self.out(each.relu().mean(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))))


class Cosine(nn.Module):
    """A layer whose weight is used, and not the layer."""

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(8, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        normal = nn.functional.normalize
        return nn.functional.linear(normal(torch.tanh(self.body(x.flatten(1)))), normal(self.out.weight))


class Looking(nn.Module):
    """A forward pass that depends on the numbers, which torch can't vectorise."""

    def __init__(self):
        super().__init__()
        self.convolution, self.out = nn.Conv1d(2, 5, 2), nn.Linear(5, 3)

    def forward(self, x):
        out = self.convolution(x).mean(2)
        return self.out(out if out.abs().max().item() > 0.1 else -out)


class Named(nn.Module):
    """Layers that are given their input by name."""

    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(input=self.body(input=x.flatten(1)).relu())


def made_weights(wrap):
    return nn.Sequential(nn.Flatten(), wrap(nn.Linear(8, 5)), nn.ReLU(), nn.Linear(5, 3))


NETWORKS = {
    "linear layers": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
    "in place": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
    "twice": lambda: nn.Sequential(nn.Flatten(), *[nn.Linear(8, 8)] * 2, nn.Linear(8, 3)),
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3)),
    "learned normalisation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "cell": Cell,
    "positions": Positions,
    "positions as rows": lambda: Positions(rows=True),
    "tied": Tied,
    "cosine": Cosine,
    "looking": Looking,
    "by name": Named,
    "weight norm": lambda: made_weights(parametrizations.weight_norm),
    "pruned": lambda: made_weights(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_fisher_is_the_sum_over_single_samples(kind, slow_fisher):
    torch.manual_seed(0)
    model = NETWORKS[kind]().double().eval()
    x, y = torch.randn(70, 2, 4, dtype=torch.float64), torch.arange(70) % 3
    fisher = fisher_diagonal(model, x, y)
    for name, value in slow_fisher(model, x, y).items():
        torch.testing.assert_close(fisher[name], value)


def test_fisher_is_not_that_of_the_mean_gradient():
    torch.manual_seed(0)
    model = NETWORKS["linear layers"]().double()
    x, y = torch.randn(64, 8, dtype=torch.float64), torch.arange(64) % 3
    nn.functional.cross_entropy(model(x), y).backward()
    assert fisher_diagonal(model, x, y)["1.weight"].mean() / 64 > 5 * model[1].weight.grad.square().mean()


def test_fisher_leaves_out_frozen_layers():
    model = NETWORKS["linear layers"]().eval()
    model[1].requires_grad_(False)
    assert set(fisher_diagonal(model, torch.randn(4, 1, 2, 4), torch.arange(4) % 3)) == {"3.weight", "3.bias"}


class Heads(MultiTaskModule):
    """A head for each of two tasks on a shared layer."""

    def __init__(self, shared):
        super().__init__()
        self.shared, self.heads = shared, nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])
        self.max_class_label = 3

    def forward_single_task(self, x, task_label):
        return self.heads[task_label](torch.tanh(self.shared(x)))


@pytest.mark.parametrize("shared", [nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5))])
def test_fisher_of_several_tasks_is_the_sum_of_theirs(shared, slow_fisher):
    torch.manual_seed(0)
    model = Heads(shared).eval()
    x, y, task = torch.randn(30, 8), torch.arange(30) % 3, torch.arange(30) % 2
    fisher = fisher_diagonal(model, x, y, task)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for label in (0, 1):
        one = nn.Sequential()
        one.shared, one.tanh, one.head = model.shared, nn.Tanh(), model.heads[label]
        for name, value in slow_fisher(one, x[task == label], y[task == label]).items():
            total[name.replace("head", f"heads.{label}")] += value
    for name, value in total.items():
        torch.testing.assert_close(fisher[name], value)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_derived_from_linear_is_what_it_computes(slow_fisher):
    torch.manual_seed(0)
    net = nn.Sequential(Doubled(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    for name, value in fisher_diagonal(net, x, y).items():
        torch.testing.assert_close(value, slow_fisher(net, x, y)[name])


def test_frozen_parameters_have_no_importance():
    net = nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 3))
    net[0].weight.requires_grad_(False)
    assert set(fisher_diagonal(net, torch.randn(5, 1, 4), torch.arange(5) % 3)) == {"0.bias", "2.weight", "2.bias"}


class RecurrentWithHeads(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.max_class_label = 3
        self.known_train_tasks_labels = {0, 1}
        self.rnn, self.heads = nn.GRU(4, 5, batch_first=True), nn.ModuleList(nn.Linear(5, 3) for _ in range(2))

    def forward_single_task(self, x, task_label):
        return self.heads[task_label](self.rnn(x)[0][:, -1])


def test_recurrent_network_with_heads():
    torch.manual_seed(0)
    net, x, y, task = RecurrentWithHeads(), torch.randn(6, 3, 4), torch.arange(6) % 3, torch.tensor([0, 1, 1, 0, 1, 1])
    found = fisher_diagonal(net, x, y, task)
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for i in range(6):
        out = net.heads[int(task[i])](net.rnn(x[i : i + 1])[0][:, -1])
        loss = nn.functional.cross_entropy(out, y[i : i + 1])
        gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        for name, gradient in zip(expected, gradients, strict=True):
            if gradient is not None:
                expected[name] += gradient.square()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
