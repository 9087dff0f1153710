import csv
import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbinn.report import tables
from clbinn.report.groups import Difference, Stat, streams
from clbinn.report.runs import find_runs


@pytest.fixture
def stream(make_run, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed)
        make_run("vcl", seed, digest="cccccccc", average_accuracy=0.95 + 0.01 * seed, batch_norm=None, mc_samples=None)
    (found,) = streams(find_runs(tmp_path))
    return found


def test_headline_numbers_are_numpys(stream, made_up):
    titles, rows = tables.headline(stream)
    rows = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}
    last = np.array([made_up(5, seed).round(6)[-1].mean() for seed in range(3)])
    assert rows["bayesbinn"]["ACC (%)"] == f"{100 * last.mean():.2f} ± {100 * last.std(ddof=1):.2f}"
    assert rows["vcl"]["ACC (%)"] == "96.00 ± 1.00"
    assert rows["vcl"]["n"] == "3"
    mean = np.mean(np.array([0.95, 0.96, 0.97]) - last)
    assert rows["vcl"]["Δ ACC to bayesbinn"].startswith(f"{100 * mean:+.2f} [")
    assert rows["bayesbinn"]["Δ ACC to bayesbinn"] == "reference"
    assert rows["bayesbinn"]["Protocol"] == "100 epochs, batch_norm running, C = 100"
    assert rows["vcl"]["Protocol"] == "100 epochs"


def test_summary_csv_is_at_full_precision(stream, made_up):
    rows = list(csv.DictReader(io.StringIO(tables.summary_csv([stream]))))
    ours = next(row for row in rows if row["strategy"] == "bayesbinn")
    last = np.array([made_up(5, seed)[-1].mean() for seed in range(3)])
    assert float(ours["average_accuracy_mean"]) == pytest.approx(last.mean(), rel=1e-12)
    assert float(ours["average_accuracy_std"]) == pytest.approx(last.std(ddof=1), rel=1e-9)
    assert (ours["n"], ours["seeds"], ours["difference_mean"]) == ("3", "0 1 2", "")
    other = next(row for row in rows if row["strategy"] == "vcl")
    assert float(other["difference_mean"]) == pytest.approx(0.96 - last.mean(), rel=1e-9)
    assert float(other["difference_low"]) < float(other["difference_mean"]) < float(other["difference_high"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.34, "0.3 s"), (41.2, "41 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (7520, "2 h 05 min")],
)
def test_duration(seconds, text):
    assert tables.duration(Stat(seconds, math.nan, 1)) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 B"), (11_175, "11.2 kB"), (715_200, "715 kB"), (2_218_000, "2.2 MB"), (999_600, "1.0 MB")],
)
def test_size(size, text):
    assert tables.size(Stat(size, math.nan, 1)) == text


def test_signs_and_missing_numbers():
    assert tables.points(Stat(-0.0123, 0.002, 3)) == "−1.23 ± 0.20"
    assert tables.points(Stat(-0.00001, math.nan, 1)) == "0.00"
    assert tables.percent(Stat(math.nan, math.nan, 0)) == "–"
    assert tables.difference_text(Difference(-0.01, -0.02, 0.005, 3)) == "−1.00 [−2.00, +0.50]"
    assert tables.difference_text(Difference(0.01, -math.inf, math.inf, 1)) == "+1.00 (n = 1)"
    assert tables.difference_text(None) == "–"


def test_a_note_on_epochs_takes_the_place_of_the_epochs(make_run, tmp_path):
    make_run("bayesbinn", 0, protocol=["epochs 10 of 100"], epochs=10, mc_samples=0)
    (stream,) = streams(find_runs(tmp_path))
    assert tables.protocol(stream.groups[0]) == "batch_norm running, C = 0 (mode), epochs 10 of 100"


def test_markdown_escapes(make_run, tmp_path):
    make_run("bayesbinn", 0, title="A | B <script>", protocol=["a|b *c*"])
    (stream,) = streams(find_runs(tmp_path))
    text = tables.markdown_stream(stream)
    assert text.startswith("# A \\| B &lt;script&gt;\n\n5 tasks · 1 seed · 1 strategy · 1 of 1 runs finished\n")
    assert "a\\|b \\*c\\*" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.replace("\\|", "").count("|") for line in rows]
    assert widths[0] == widths[1] == widths[2]


@given(st.integers(1, 5000), st.integers(2, 30))
def test_sampled_indices_are_few_spread_and_keep_the_ends(size, at_most):
    chosen = tables.sample_indices(size, at_most)
    assert len(chosen) == min(size, at_most)
    assert (chosen[0], chosen[-1]) == (0, size - 1)
    assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 1 else True


def test_numbers_from_fewer_runs_say_so(make_run, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed, **({"nll": None} if seed else {}))
        make_run("naive", seed + 1, digest="22222222")
    (stream,) = streams(find_runs(tmp_path))
    titles, rows = tables.headline(stream)
    by_name = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}
    assert by_name["bayesbinn"]["NLL (nats)"].endswith("(n = 1)")
    assert "(n" not in by_name["naive"]["NLL (nats)"]
    assert by_name["naive"][tables.difference_title(stream)].endswith("(n = 2)")


def measured(tmp_path):
    (stream,) = streams(find_runs(tmp_path))
    return stream


def test_unfinished_are_counted(make_run, tmp_path):
    make_run("bayesbinn", 0)
    make_run("bayesbinn", 1, finished=False)
    assert tables.facts(measured(tmp_path)).endswith("1 of 2 runs finished")


def test_n_is_told_only_where_it_is_smaller(make_run, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed, nll=None)
    _, rows = tables.headline(measured(tmp_path))
    assert not any("n = " in cell for row in rows for cell in row)
