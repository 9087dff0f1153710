import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.image import imread

from clbinn.report import figures
from clbinn.report.groups import streams
from clbinn.report.runs import find_runs

SVG = "{http://www.w3.org/2000/svg}svg"


def check(path, least=(300, 300)):
    height, width = imread(path).shape[:2]
    assert width >= least[0]
    assert height >= least[1]
    assert ET.parse(path.with_suffix(".svg")).getroot().tag == SVG


@pytest.mark.parametrize("tasks", [1, 2, 12, 13, 60])
def test_accuracy_matrix_of_any_size(tmp_path, made_up, tasks):
    path = tmp_path / "m.png"
    figures.accuracy_matrix(made_up(tasks, 0), path, title="$5 & <more> 数")
    check(path)


def test_a_thousand_tasks_make_a_small_file(tmp_path):
    path = tmp_path / "m.png"
    figures.accuracy_matrix(np.random.default_rng(0).random((1001, 1000)), path)
    check(path)
    assert path.stat().st_size < 2_000_000


def test_unmeasured_cells_stay_blank(tmp_path, made_up):
    matrix = made_up(4, 0)
    matrix[3:] = np.nan
    figures.accuracy_matrix(matrix, tmp_path / "m.png")
    check(tmp_path / "m.png")


def test_the_picture_shows_the_numbers(tmp_path):
    """Dark where accuracy is high, pale where it is low: told from pixels in the cells of a figure without text."""
    matrix = np.full((31, 30), 0.1)
    matrix[16:, :15] = 0.95
    figures.accuracy_matrix(matrix, tmp_path / "m.png")
    pixels = imread(tmp_path / "m.png")[..., :3].mean(axis=2)
    height, width = pixels.shape
    low_left, up_right = pixels[int(0.7 * height), int(0.25 * width)], pixels[int(0.3 * height), int(0.7 * width)]
    assert low_left < 0.4
    assert up_right > 0.8


def test_the_same_figure_has_the_same_bytes(tmp_path, made_up):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figures.accuracy_matrix(made_up(4, 0), tmp_path / name / "m.png")
    for suffix in (".png", ".svg"):
        first, second = ((tmp_path / name / f"m{suffix}").read_bytes() for name in ("a", "b"))
        assert first == second


def test_figures_of_a_stream(make_run, made_up, tmp_path):
    for seed in range(2):
        for k, name in enumerate(["bayesbinn", "ewc", "vcl"]):
            make_run(name, seed, matrix=made_up(5, 10 * k + seed), memory_bytes=10 ** (5 + k))
    (stream,) = streams(find_runs(tmp_path))
    for draw in (figures.average_accuracy, figures.tasks_over_time, figures.matrices, figures.memory):
        path = tmp_path / f"{draw.__name__}.png"
        assert draw(stream, path)
        check(path, least=(1500, 300))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, laid out, in place of files."""
    kept = []

    def keep(figure, path):
        figure.draw_without_rendering()
        kept.append(figure)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def test_a_legend_of_long_names_stays_in_the_figure(make_run, drawn, tmp_path):
    for k in range(4):
        make_run("synaptic_metaplasticity", 0, digest=f"{k}a3f9c02")
        make_run(f"vcl_coreset_kcenter_{k}", 0)
    (stream,) = streams(find_runs(tmp_path))
    assert figures.tasks_over_time(stream, tmp_path / "x.png")
    box = drawn[0].legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= drawn[0].bbox.width


@pytest.mark.parametrize(("tasks", "marked"), [(20, True), (21, False)])
def test_panels_are_alike(make_run, made_up, drawn, tmp_path, tasks, marked):
    make_run("bayesbinn", 0, matrix=made_up(tasks, 0))
    (stream,) = streams(find_runs(tmp_path))
    assert figures.tasks_over_time(stream, tmp_path / "x.png")
    markers = {line.get_marker() for axes in drawn[0].axes for line in axes.get_lines()}
    assert markers == ({"o"} if marked else {""})


@pytest.mark.parametrize("larger", [700_001, 715_200, 2_000_000, 10**9])
def test_the_axis_of_memory_has_numbers(make_run, drawn, tmp_path, larger):
    make_run("bayesbinn", 0, memory_bytes=700_000)
    make_run("ewc", 0, memory_bytes=larger)
    (stream,) = streams(find_runs(tmp_path))
    assert figures.memory(stream, tmp_path / "x.png")
    texts = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert len(set(texts)) == len(texts) >= 2


def test_nothing_to_draw(make_run, made_up, tmp_path):
    make_run("bayesbinn", 0, finished=False)
    (stream,) = streams(find_runs(tmp_path))
    for draw in (figures.average_accuracy, figures.tasks_over_time, figures.matrices, figures.memory):
        assert not draw(stream, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_eighteen_strategies_look_different(make_run, made_up, tmp_path):
    for k in range(18):
        make_run(f"s{k}", 0, matrix=made_up(1, k))
    (stream,) = streams(find_runs(tmp_path))
    looks = figures.styles(stream.groups)
    assert len({(look["color"], str(look["linestyle"])) for look in looks.values()}) == 18


def test_no_torch_no_avalanche_no_pyplot():
    code = (
        "import sys, clbinn.report.build_report; "
        "print([m for m in ('torch', 'avalanche', 'pandas', 'matplotlib.pyplot') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = "import sys, clbinn.report; print('matplotlib' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False False\n"
