import errno
import html.parser
import os
import re

import numpy as np
import pytest

from clbinn.errors import RunError, UserError
from clbinn.report import build, markdown

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">\'"&'


HARMLESS = {
    *("html", "head", "meta", "title", "style", "body", "section", "footer"),
    *("h1", "h2", "p", "b", "a", "div", "span", "small", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption", "details", "summary"),
}


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr("clbinn.report.build_report.draw", lambda *_: ())


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the cells, row by row."""

    void = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.stack = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "td" in self.stack or "th" in self.stack:
            self.rows[-1][-1] += data


def test_one_benchmark(make_run, made_up, tmp_path):
    for seed in range(3):
        make_run("bayesbinn", seed)
        make_run("vcl", seed, matrix=made_up(5, 20 + seed, keep=0.99), digest="cccccccc", memory_bytes=5e6)
    make_run("ewc", 0, digest="dddddddd", finished=False, events=[{"event": "epoch", "task": 2, "epoch": 3}])
    path = build(tmp_path)
    folder = tmp_path / "permuted_mnist"
    assert path == folder / "report.html"
    figures = {
        f"{name}.{kind}"
        for name in ("average_accuracy", "tasks_over_time", "matrices", "memory")
        for kind in ("png", "svg")
    }
    assert {f.name for f in folder.iterdir() if f.is_file()} == {"report.html", "report.md", "summary.csv", *figures}

    page = Page(path.read_text(encoding="utf-8"))
    assert page.stack == []
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 4
    assert all(source.startswith("data:image/") for source in sources)
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]

    rows = {row[0]: row for row in reversed(page.rows) if row}
    ours = next(row for row in page.rows if row[0].startswith("vcl"))
    last = np.array([made_up(5, 20 + seed, keep=0.99)[-1].mean() for seed in range(3)])
    assert ours[2] == f"{100 * last.mean():.2f} ± {100 * last.std(ddof=1):.2f}"
    assert rows["ewc-dddddddd"][2] == "incomplete: task 2, epoch 3"
    assert "7 runs finished" in path.read_text(encoding="utf-8")
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in text for name in figures if name.endswith("png"))


@pytest.mark.usefixtures("no_figures")
def test_several_benchmarks_get_a_page_each_and_one_that_leads_to_them(make_run, tmp_path):
    make_run("bayesbinn", 0)
    make_run("bayesbinn", 0, benchmark="rotated_mnist", title="Turned digits")
    path = build(tmp_path)
    assert path == tmp_path / "report.html"
    links = [attrs["href"] for tag, attrs in Page(path.read_text(encoding="utf-8")).tags if tag == "a"]
    assert links == ["permuted_mnist/report.html", "rotated_mnist/report.html"]
    assert all((tmp_path / link).is_file() for link in links)


def test_one_run(make_run):
    folder = make_run("bayesbinn", 0)
    assert build(folder) == folder / "report.html"
    assert (folder / "matrices.png").is_file()


def test_only_unfinished_runs(make_run, tmp_path):
    make_run("bayesbinn", 0, finished=False)
    text = build(tmp_path).read_text(encoding="utf-8")
    assert "No run is finished yet." in text
    assert "0 of 1 runs finished" in text


def test_unlike_streams_of_one_name_stand_apart(make_run, made_up, tmp_path):
    make_run("bayesbinn", 0)
    make_run("vcl", 0, matrix=made_up(3, 0), digest="cccccccc")
    page = Page(build(tmp_path).read_text(encoding="utf-8"))
    assert sum(tag == "h1" for tag, _ in page.tags) == 2
    assert (tmp_path / "permuted_mnist" / "matrices-2.png").is_file()


def test_nothing_that_a_run_brings_along_becomes_markup(make_run, tmp_path):
    folder = make_run(
        "bayesbinn",
        0,
        title=EVIL,
        options={EVIL: EVIL},
        protocol=[EVIL],
        batch_norm=EVIL,
        strategy_title=EVIL,
    )
    (folder / "environment.json").write_text('{"<b>cpu</b>": "</td><script>alert(3)</script>"}')
    evil = folder.parent.parent / 'x" onload="alert(4)-12345678' / "seed-1"
    evil.mkdir(parents=True)
    (evil / "events.jsonl").write_text('{"event": "end", "error": "<script>alert(5)</script>"}\n')
    for page_path in (build(folder), build(tmp_path)):
        page = Page(page_path.read_text(encoding="utf-8"))
        assert page.stack == []
        assert {tag for tag, _ in page.tags} <= HARMLESS
        assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
        assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    for svg in tmp_path.rglob("*.svg"):
        assert "<script" not in svg.read_text(encoding="utf-8")
    assert "<script" not in markdown(tmp_path)


@pytest.mark.usefixtures("no_figures")
def test_targets_are_marked(make_run, tmp_path):
    make_run("bayesbinn", 0, average_accuracy=0.84)
    head = "id,benchmark,strategy,where,metric,value,std,tolerance,epochs,evidence,source"
    rows = [
        "good,permuted_mnist,bayesbinn,,average_accuracy,0.842,,0.015,100,printed,A",
        "bad,permuted_mnist,bayesbinn,,average_accuracy,0.90,,0.015,100,printed,A",
        "none,permuted_mnist,vcl,,average_accuracy,0.90,,0.015,100,printed,A",
    ]
    targets = tmp_path / "targets.csv"
    targets.write_text("\n".join([head, *rows]) + "\n")
    with targets.open("a") as file:
        file.write("elsewhere,rotated_mnist,vcl,,average_accuracy,0.90,,0.015,100,printed,A\n")
    text = build(tmp_path, targets).read_text(encoding="utf-8")
    assert "elsewhere" not in text
    page = Page(text)
    outcome = {row[0]: row[5] for row in page.rows if row and row[0] in ("good", "bad", "none")}
    assert outcome == {"good": "reproduced", "bad": "short by 6.00 points", "none": "not run"}
    assert "1 of 4 published numbers reproduced" in markdown(tmp_path, targets)


def test_no_runs_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no run folders here"):
        build(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        build(tmp_path / "absent")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("number", "kind"), [(errno.EACCES, UserError), (errno.ENOSPC, RunError)])
def test_a_folder_that_cannot_be_written(make_run, tmp_path, monkeypatch, number, kind):
    make_run("bayesbinn", 0)

    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkstemp", fail)
    with pytest.raises(kind, match=f"the report can't be written: {os.strerror(number)}"):
        build(tmp_path)
    assert not (tmp_path / "permuted_mnist" / "report.html").exists()


def test_a_new_report_replaces_the_old(make_run, tmp_path):
    make_run("bayesbinn", 0)
    make_run("vcl", 0, digest="cccccccc")
    build(tmp_path)
    assert (tmp_path / "permuted_mnist" / "memory.png").is_file()
    for file in (tmp_path / "permuted_mnist" / "vcl-cccccccc" / "seed-0").iterdir():
        file.unlink()
    text = build(tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"\bvcl\b", text)
    assert not (tmp_path / "permuted_mnist" / "memory.png").exists()


def test_a_thousand_tasks_stay_readable(make_run, tmp_path):
    rng = np.random.default_rng(0)
    make_run("bayesbinn", 0, matrix=rng.random((1001, 1000)))
    path = build(tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.rows) < 60
    assert path.stat().st_size < 6_000_000
