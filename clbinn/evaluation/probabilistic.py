"""How good predicted probabilities are: negative log-likelihood, calibration, Brier score."""

import torch
from torch import Tensor

__all__ = ["brier", "calibration_error", "calibration_sums", "ece", "nll"]


def nll(probs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood −1/n Σ_i log p_i[y_i], in nats.

    A probability under the smallest normal number of its dtype counts as that number, so that one sure mistake gives a
    large number (87.3 in float32) and not infinity.

    Args:
        probs: Predicted probabilities, shape (n, classes).
        targets: True classes, shape (n,), int64.

    Returns:
        A scalar ≥ 0, float64.

    Raises:
        ValueError: If the shapes don't go together.
    """
    _check(probs, targets)
    chosen = probs.gather(1, targets[:, None]).clamp_min(torch.finfo(probs.dtype).tiny)
    return -chosen.log().double().mean()


def brier(probs: Tensor, targets: Tensor) -> Tensor:
    """Brier score 1/n Σ_i Σ_c (p_i[c] − [y_i = c])² (Brier, 1950).

    Args:
        probs: Predicted probabilities, shape (n, classes).
        targets: True classes, shape (n,), int64.

    Returns:
        A scalar in [0, 2], float64.

    Raises:
        ValueError: If the shapes don't go together.
    """
    _check(probs, targets)
    truth = torch.nn.functional.one_hot(targets, probs.shape[1])
    return (probs.double() - truth).square().sum(1).mean()


def ece(probs: Tensor, targets: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error Σ_b n_b/n |accuracy_b − confidence_b| over equal bins (Guo et al., 2017).

    Args:
        probs: Predicted probabilities, shape (n, classes).
        targets: True classes, shape (n,), int64.
        bins: Number of bins; bin b is ((b − 1)/bins, b/bins].

    Returns:
        A scalar in [0, 1], float64.

    Raises:
        ValueError: If the shapes don't go together, or `bins` is under 1.
    """
    return calibration_error(calibration_sums(probs, targets, bins))


def calibration_sums(probs: Tensor, targets: Tensor, bins: int = 15) -> Tensor:
    """The sums that the calibration error is made of; those of batches add up.

    Args:
        probs: Predicted probabilities, shape (n, classes).
        targets: True classes, shape (n,), int64.
        bins: Number of bins; bin b is ((b − 1)/bins, b/bins].

    Returns:
        Shape (3, bins), float64: for each bin the number of points, the correct ones, and the sum of confidences.

    Raises:
        ValueError: If the shapes don't go together, or `bins` is under 1.
    """
    _check(probs, targets)
    if bins < 1:
        raise ValueError(f"the calibration error needs at least one bin, not {bins}")
    confidence, predicted = probs.max(1)
    confidence = confidence.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=probs.device)[1:-1]
    index = torch.bucketize(confidence, edges)
    terms = torch.stack([torch.ones_like(confidence), (predicted == targets).double(), confidence])
    return torch.zeros(3, bins, dtype=torch.float64, device=probs.device).index_add_(1, index, terms)


def calibration_error(sums: Tensor) -> Tensor:
    """The expected calibration error from `calibration_sums`, shape (3, bins): Σ_b |correct_b − confidence_b| / n."""
    count, correct, confidence = sums
    error: Tensor = (correct - confidence).abs().sum() / count.sum()
    return error


def _check(probs: Tensor, targets: Tensor) -> None:
    if probs.ndim != 2 or targets.shape != probs.shape[:1] or len(targets) == 0:
        raise ValueError(
            f"needs probabilities (n, classes) and targets (n,), got {tuple(probs.shape)} and {tuple(targets.shape)}"
        )
