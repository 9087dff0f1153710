"""Numbers of an accuracy matrix: pure functions, numpy only.

The matrix R has T + 1 rows and T columns. R[i, j] is the accuracy on task j after training task i, both counted from 1
in the formulas; row 0 is the untrained network. With a single task nothing is transferred or forgotten: those are 0.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "forgetting",
    "forward_transfer",
    "learning_accuracy",
]


def average_accuracy(R: ArrayLike) -> float:
    """Mean accuracy over all tasks at the end: ACC = 1/T Σ_j R[T, j] (Lopez-Paz and Ranzato, 2017).

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    return float(_checked(R)[-1].mean())


def learning_accuracy(R: ArrayLike) -> float:
    """Mean accuracy on each task just after learning it: LA = 1/T Σ_j R[j, j] (Riemer et al., 2019).

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    return float(_checked(R)[1:].diagonal().mean())


def average_incremental_accuracy(R: ArrayLike) -> float:
    """Accuracy on the tasks seen so far, averaged over the stream: AIA = 1/T Σ_i 1/i Σ_{j≤i} R[i, j].

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    after = _checked(R)[1:]
    seen = np.tril(after).sum(axis=1) / np.arange(1, len(after) + 1)
    return float(seen.mean())


def backward_transfer(R: ArrayLike) -> float:
    """What later tasks did to earlier ones: BWT = 1/(T−1) Σ_{j<T} (R[T, j] − R[j, j]) (Lopez-Paz and Ranzato, 2017).

    Negative is forgetting. ACC = LA + (T−1)/T · BWT.

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Returns:
        A number in [−1, 1]; 0 for a single task.

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    after = _checked(R)[1:]
    return _mean(after[-1, :-1] - after.diagonal()[:-1])


def forward_transfer(R: ArrayLike) -> float:
    """What earlier tasks did for later ones: FWT = 1/(T−1) Σ_{j≥2} (R[j−1, j] − R[0, j]) (Lopez-Paz and Ranzato, 2017).

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Returns:
        A number in [−1, 1]; 0 for a single task.

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    R = _checked(R)
    return _mean(R[1:].diagonal(offset=1) - R[0, 1:])


def forgetting(R: ArrayLike) -> float:
    """How far tasks fell from their best: F = 1/(T−1) Σ_{j<T} (max_{j≤l<T} R[l, j] − R[T, j]) (Chaudhry et al., 2018).

    Args:
        R: Accuracy matrix of shape (T + 1, T), row 0 the untrained network, entries in [0, 1].

    Returns:
        A number in [−1, 1]; 0 for a single task.

    Raises:
        ValueError: If the shape is another one or an entry is missing (NaN).
    """
    after = _checked(R)[1:]
    learned = np.where(np.tri(len(after), dtype=bool), after, -np.inf)
    best = learned[:-1, :-1].max(axis=0, initial=-np.inf)
    return _mean(best - after[-1, :-1])


def _checked(R: ArrayLike) -> NDArray[np.float64]:
    matrix = np.asarray(R, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] + 1 or matrix.shape[1] == 0:
        raise ValueError(f"an accuracy matrix has T + 1 rows and T columns, this one has the shape {matrix.shape}")
    if np.isnan(matrix).any():
        row, column = np.argwhere(np.isnan(matrix))[0]
        raise ValueError(f"the accuracy matrix is not complete: row {row}, task {column + 1} is missing")
    return matrix


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else 0.0
