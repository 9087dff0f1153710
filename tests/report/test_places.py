from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbinn.report import places


@given(st.lists(st.floats(0, 100), min_size=1, max_size=18).map(sorted), st.floats(0.1, 20))
def test_labels_never_overlap(values, gap):
    found = places.spread_out(values, gap, 0.0, 100.0)
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(found))


def test_labels_that_fit_stay_where_they_are():
    assert places.spread_out([10.0, 50.0, 90.0], 5.0, 0.0, 100.0) == [10.0, 50.0, 90.0]


@given(st.integers(1, 100_000))
def test_round_tasks_are_few_and_inside(tasks):
    ticks = places.round_tasks(tasks, 12)
    assert ticks[0] == 1
    assert len(ticks) <= 12
    assert ticks == sorted(set(ticks))
    assert ticks[-1] <= tasks


@given(st.floats(1, 1e11), st.floats(2, 1e6))
def test_an_axis_of_bytes_has_few_ticks_inside(low, ratio):
    ticks = places.byte_ticks(low, low * ratio)
    assert 2 <= len(ticks) <= 20
    assert all(low <= tick <= low * ratio for tick in ticks)


@pytest.mark.parametrize(("letters", "columns"), [(5, 7), (20, 6), (40, 3), (500, 1)])
def test_legends_have_the_columns_that_fit(letters, columns):
    assert places.legend_columns(["x" * letters] * 9, 11.6) == columns
