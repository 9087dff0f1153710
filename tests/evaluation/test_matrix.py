import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clbinn import evaluation
from clbinn.evaluation import matrix

# Two tasks, worked by hand: rows are untrained, after task 1, after task 2.
TWO = np.array([[0.1, 0.2], [0.9, 0.3], [0.6, 0.8]])

# Three tasks; task 1 is best after task 2 (0.95), so forgetting is not −BWT.
THREE = np.array([[0.1, 0.1, 0.2], [0.9, 0.2, 0.1], [0.95, 0.8, 0.3], [0.7, 0.75, 0.85]])


@pytest.mark.parametrize(
    ("name", "two", "three"),
    [
        ("average_accuracy", 0.7, (0.7 + 0.75 + 0.85) / 3),
        ("learning_accuracy", 0.85, (0.9 + 0.8 + 0.85) / 3),
        ("average_incremental_accuracy", (0.9 + 0.7) / 2, (0.9 + (0.95 + 0.8) / 2 + (0.7 + 0.75 + 0.85) / 3) / 3),
        ("backward_transfer", -0.3, (0.7 - 0.9 + 0.75 - 0.8) / 2),
        ("forward_transfer", 0.1, (0.2 - 0.1 + 0.3 - 0.2) / 2),
        ("forgetting", 0.3, (0.95 - 0.7 + 0.8 - 0.75) / 2),
    ],
)
def test_numbers_worked_by_hand(name, two, three):
    function = getattr(evaluation, name)
    assert function(TWO) == pytest.approx(two)
    assert function(THREE.tolist()) == pytest.approx(three)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("average_accuracy", 0.9),
        ("learning_accuracy", 0.9),
        ("average_incremental_accuracy", 0.9),
        ("backward_transfer", 0.0),
        ("forward_transfer", 0.0),
        ("forgetting", 0.0),
    ],
)
def test_single_task(name, value):
    assert getattr(evaluation, name)([[0.1], [0.9]]) == value


matrices = st.integers(1, 7).flatmap(lambda t: arrays(np.float64, (t + 1, t), elements=st.floats(0, 1)))


@given(matrices)
def test_average_is_learning_plus_transfer(R):
    T = R.shape[1]
    parts = evaluation.learning_accuracy(R) + (T - 1) / T * evaluation.backward_transfer(R)
    assert evaluation.average_accuracy(R) == pytest.approx(parts)


@given(matrices)
def test_forgetting_follows_its_formula_letter_by_letter(R):
    T = R.shape[1]
    falls = [max(R[i, j - 1] for i in range(j, T)) - R[T, j - 1] for j in range(1, T)]
    assert evaluation.forgetting(R) == pytest.approx(sum(falls) / (T - 1) if T > 1 else 0.0)
    assert evaluation.forgetting(R) >= -evaluation.backward_transfer(R) - 1e-12


@pytest.mark.parametrize("shape", [(2, 2), (3,), (1, 0), (2, 1, 1)])
@pytest.mark.parametrize("name", matrix.__all__)
def test_wrong_shape(name, shape):
    with pytest.raises(ValueError, match=r"T \+ 1 rows"):
        getattr(matrix, name)(np.zeros(shape))


def test_missing_entry_is_named():
    with pytest.raises(ValueError, match="row 2, task 1 is missing"):
        evaluation.average_accuracy([[0.1, 0.2], [0.9, 0.3], [float("nan"), 0.8]])


def test_a_thousand_tasks_are_quick():
    R = np.random.default_rng(0).random((1001, 1000))
    assert 0 < evaluation.forgetting(R) < 1
