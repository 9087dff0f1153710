import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from clbinn.report.groups import curve, paired_difference, stat, streams
from clbinn.report.runs import find_runs

numbers = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(numbers)
def test_stat_is_numpys(values):
    s = stat([*values, math.nan])
    assert s.n == len(values)
    assert s.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert s.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_one_number_has_no_spread():
    s = stat([0.5])
    assert (s.mean, s.n) == (0.5, 1)
    assert math.isnan(s.std)
    assert math.isnan(stat([]).mean)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_the_interval_is_that_of_scipys_paired_t_test(pairs):
    a, b = np.array(pairs).T
    if np.ptp(a - b) < 1e-6:
        return  # a t interval of equal differences is a point, and scipy says nan
    d = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    interval = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert d.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    assert (d.low, d.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_only_common_seeds_are_paired():
    d = paired_difference({0: 0.9, 1: 0.8, 7: 0.1}, {0: 0.7, 1: 0.7, 3: 0.9, 7: math.nan})
    assert (d.mean, d.n) == (pytest.approx(0.15), 2)
    assert paired_difference({0: 0.5}, {1: 0.5}) is None
    alone = paired_difference({0: 0.5}, {0: 0.4})
    assert (alone.low, alone.high) == (-math.inf, math.inf)


def test_curve_by_hand():
    matrix = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.3], [0.8, 0.9, 0.1], [0.6, 0.7, 0.8]])
    np.testing.assert_allclose(curve(matrix), [0.9, 0.85, 0.7])


def test_groups_by_settings_and_sorts_by_accuracy(make_run, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed)
        make_run("ewc", seed, digest="aaaaaaaa", average_accuracy=0.99)
    make_run("ewc", 0, digest="bbbbbbbb", average_accuracy=0.5)
    make_run("vcl", 0, digest="cccccccc", finished=False)
    (stream,) = streams(find_runs(tmp_path))
    assert [g.label for g in stream.groups] == ["ewc · aaaaaaaa", "bayesbinn", "ewc · bbbbbbbb", "vcl"]
    assert [g.label for g in stream.compared] == ["ewc · aaaaaaaa", "bayesbinn", "ewc · bbbbbbbb"]
    assert stream.reference.label == "bayesbinn"
    assert stream.difference(stream.reference) is None
    assert stream.difference(stream.groups[0]).n == 3
    assert (stream.seeds, stream.num_tasks) == ([0, 1, 2], 5)


def test_labels_say_which_setting_differs(make_run, tmp_path):
    for k in range(3):
        make_run("bayesbinn", 0, digest=f"{k:08x}", options={"temperature": 10.0**-k})
    (stream,) = streams(find_runs(tmp_path))
    assert {g.label for g in stream.groups} == {f"bayesbinn · temperature {t}" for t in ("1", "0.1", "0.01")}


def test_labels_with_many_differences_carry_the_hash(make_run, tmp_path):
    make_run("bayesbinn", 0, digest="00000000", options={"temperature": 1.0, "lr": 1.0, "momentum": 0.9})
    make_run("bayesbinn", 0, digest="11111111")
    (stream,) = streams(find_runs(tmp_path))
    # the first has three settings of its own, the second two that differ
    assert sorted(g.label for g in stream.groups) == ["bayesbinn · 00000000", "bayesbinn · temperature 0.01, lr 0.001"]


def test_labels_tell_plugins_by_their_class_and_never_the_prose_of_a_recipe(make_run, tmp_path):
    make_run("ewc", 0, digest="00000000", recipe={"title": "As published", "provenance": "Table 1"})
    make_run("ewc", 0, digest="11111111", recipe={"plugins": [{"target": "mine.Replay", "options": {"size": 3}}]})
    (stream,) = streams(find_runs(tmp_path))
    assert {g.label for g in stream.groups} == {"ewc · plugins none", "ewc · plugins Replay(size=3)"}


def test_a_setting_too_long_for_a_label_is_told_by_the_hash(make_run, tmp_path):
    for k in range(2):
        make_run("ewc", 0, digest=f"{k:08x}", options={"sizes": [k] * 20})
    (stream,) = streams(find_runs(tmp_path))
    assert {g.label for g in stream.groups} == {"ewc · 00000000", "ewc · 00000001"}


def test_streams_with_unlike_recipes_are_not_compared(make_run, made_up, tmp_path):
    make_run("bayesbinn", 0)
    make_run("ewc", 0, digest="aaaaaaaa", matrix=made_up(3, 0))
    assert sorted(stream.num_tasks for stream in streams(find_runs(tmp_path))) == [3, 5]


def test_mean_matrix_is_over_finished_runs(make_run, made_up, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed, finished=seed < 2)
    (stream,) = streams(find_runs(tmp_path))
    expected = (made_up(5, 0) + made_up(5, 1)) / 2
    np.testing.assert_allclose(stream.groups[0].mean_matrix, expected, atol=1e-6)


def test_a_seed_that_was_copied_counts_once_the_first_and_in_order(make_run, tmp_path):
    for seed, accuracy in ((0, 0.5), (1, 0.6), (2, 0.7)):
        make_run("bayesbinn", seed, average_accuracy=accuracy)
    runs = find_runs(tmp_path)
    copied = dataclasses.replace(runs[0], summary={**runs[0].summary, "average_accuracy": 0.9})
    (stream,) = streams([*runs, copied])
    (group,) = stream.groups
    assert [run.seed for run in group.finished] == [0, 1, 2]
    assert group.stat("average_accuracy").mean == pytest.approx(0.6)


def test_numbers_that_are_not_finite_are_not_paired():
    found = paired_difference({0: math.nan, 1: 0.5, 2: 0.5}, {0: 0.1, 1: 0.25, 2: math.nan})
    assert (found.n, found.mean) == (1, 0.25)


def measured(tmp_path):
    (stream,) = streams(find_runs(tmp_path))
    return stream


def test_the_reference_has_most_seeds(make_run, tmp_path):
    make_run("bayesbinn", 0, digest="aaaaaaaa")
    for seed in range(2):
        make_run("bayesbinn", seed, digest="bbbbbbbb")
    assert measured(tmp_path).reference.hash == "bbbbbbbb"


def test_no_reference_of_unfinished(make_run, tmp_path):
    make_run("bayesbinn", 0, finished=False)
    make_run("vcl", 0, digest="cccccccc")
    make_run("ewc", 0, digest="dddddddd")
    assert measured(tmp_path).reference is None


def test_missing_cells_do_not_spread(make_run, tmp_path, made_up):
    for seed in range(2):
        matrix = made_up(3, seed)
        if seed == 0:
            matrix[0, 1] = math.nan
        make_run("bayesbinn", seed, matrix=matrix)
    (g,) = measured(tmp_path).groups
    assert np.isfinite(g.mean_matrix).all()
