import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from clbinn.evaluation import brier, ece, nll
from clbinn.evaluation.probabilistic import calibration_error, calibration_sums


@pytest.fixture(params=[2, 10])
def predictions(request):
    generator = torch.Generator().manual_seed(request.param)
    probs = torch.randn(500, request.param, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    return probs, torch.randint(request.param, (500,), generator=generator)


def test_nll_is_log_loss(predictions):
    probs, targets = predictions
    expected = log_loss(targets, probs, labels=range(probs.shape[1]))
    assert nll(probs, targets).item() == pytest.approx(expected, rel=1e-5)


def test_nll_of_a_sure_mistake_is_finite():
    assert nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).item() == pytest.approx(126 * math.log(2), rel=1e-6)


def test_brier_is_sklearns(predictions):
    probs, targets = predictions
    expected = brier_score_loss(targets, probs, labels=range(probs.shape[1]), scale_by_half=False)
    assert brier(probs, targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_is_torchmetrics(predictions, bins):
    probs, targets = predictions
    expected = multiclass_calibration_error(probs, targets, num_classes=probs.shape[1], n_bins=bins, norm="l1")
    assert ece(probs, targets, bins).item() == pytest.approx(expected.item(), abs=1e-6)


def test_ece_by_hand():
    # Bins (0, .5] and (.5, 1]: a confidence of exactly one half belongs to the lower, of one to the upper.
    probs = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.75, 0.25]])
    targets = torch.tensor([0, 0, 0, 0])
    lower, upper = 1 / 4 * abs(1 - 0.5), 3 / 4 * abs(2 / 3 - 2.5 / 3)
    assert ece(probs, targets, bins=2).item() == pytest.approx(lower + upper)


def test_batches_add_up(predictions):
    probs, targets = predictions
    parts = sum(calibration_sums(p, t) for p, t in zip(probs.split(77), targets.split(77), strict=True))
    assert calibration_error(parts).item() == pytest.approx(ece(probs, targets).item())


@pytest.mark.parametrize("function", [nll, brier, ece])
@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3, 2), (2,)), ((0, 2), (0,))])
def test_wrong_shapes(function, shapes):
    with pytest.raises(ValueError, match="needs probabilities"):
        function(torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.int64))


def test_no_bins():
    with pytest.raises(ValueError, match="at least one bin"):
        ece(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), bins=0)
