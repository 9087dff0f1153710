"""The documentation is true: its code runs, its commands are accepted, its recipes load, what it names is there.

A Python or YAML block that begins with `# name.py` or `# name.yaml` is a file that the rest of its page uses. The
other Python blocks of a page are run in order in one namespace, at toy size; `loader` and `x_test` are the reader's.
"""

import ast
import csv
import doctest
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from clbinn import recipes, yaml_source
from clbinn.cli import cli, main

ROOT = Path(__file__).parents[1]
PAGES = [p for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if p.exists()]
PAGES += sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)
NAMED = re.compile(r"# (\w+\.(?:py|ya?ml))\n")
SHELL = ("sh", "shell", "bash", "console")
TOY = ((r"train_epochs=\d+", "train_epochs=1"), (r"mc_samples=\d\d+", "mc_samples=3"))
# shapes of the data sets that pages use and a test must not need
SHAPES = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if it is one."""
        found = NAMED.match(self.text)
        return found[1] if found else None


def blocks(page, *languages):
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([\w{}-]+)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    every = [Block(f[1], f[2], text.count("\n", 0, f.start()) + 2) for f in found]
    return [block for block in every if block.language in languages]


def with_blocks(*languages):
    pages = [page for page in PAGES if blocks(page, *languages)]
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


def made_up(spec, data_root=None, download=None):
    """Two images of each of ten classes, a hundred times over, in place of a data set that has to be fetched."""
    from clbinn.benchmarks.sources import Source, load_source

    if spec.dataset not in SHAPES:
        return load_source(spec, data_root, download)
    images = torch.randint(0, 256, (200, *SHAPES[spec.dataset]), dtype=torch.uint8)
    targets = torch.arange(200) % 10
    return Source(spec.dataset, images, targets, images[:50], targets[:50])


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder of its own, importable, and no data but made-up ones; prepares a page's files in it."""
    from clbinn.benchmarks import stream

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(stream, "load_source", made_up)

    def prepare(page):
        for block in blocks(page, "python", "yaml"):
            if block.file:
                (tmp_path / block.file).write_text(block.text, encoding="utf-8")

    yield prepare
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def run_code(page, block, namespace):
    text = block.text
    for pattern, toy in TOY:
        text = re.sub(pattern, toy, text)
    code = compile("\n" * (block.line - 1) + text, str(page), "exec")
    exec(code, namespace)


@with_blocks("python")
def test_python_runs(page, world):
    world(page)
    torch.manual_seed(0)
    batches = [(torch.randn(20, 784), torch.randint(10, (20,))) for _ in range(3)]
    namespace = {"torch": torch, "loader": batches, "x_test": torch.randn(15, 784), "y_test": torch.randint(10, (15,))}
    for block in blocks(page, "python"):
        if block.file is None:
            run_code(page, block, namespace)
        elif block.file.startswith("test_"):
            module = importlib.import_module(block.file.removesuffix(".py"))
            tests = [value for name, value in vars(module).items() if name.startswith("test_")]
            assert tests
            for test in tests:
                test()


def commands(page):
    for block in blocks(page, *SHELL):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


@with_blocks(*SHELL)
def test_commands_are_accepted(page, world, monkeypatch, capsys):
    from clbinn import report
    from clbinn.experiments import export, grid, reproduce, tune

    monkeypatch.setattr(grid, "run_grid", lambda *args, **options: [])
    monkeypatch.setattr(reproduce, "reproduce", lambda table, **options: reproduce.Reproduction(table, []))
    monkeypatch.setattr(tune, "tune", lambda *args, **options: "recipe.yaml")
    monkeypatch.setattr(report, "build", lambda *args: Path("report.html"))
    monkeypatch.setattr(export, "export", lambda run, file: f"{file}")
    world(page)
    for stream in recipes.catalogue("benchmarks"):
        Path("runs", stream).mkdir(parents=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for program, *words in commands(page):
        if program == "clbinn":
            with pytest.raises(SystemExit) as left:
                main(words)
            assert left.value.code == 0, f"clbinn {' '.join(words)}: {capsys.readouterr().err}"
            if words[0] == "reproduce" and len(words) > 1:
                assert words[1].partition("/")[0] in reproduce.TITLES
        elif program == "make":
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words)
        elif program == "pip":
            extras = re.search(r"\[([\w,]+)\]", " ".join(words))
            declared = (ROOT / "setup.cfg").read_text(encoding="utf-8")
            assert all(f"\n{extra} =\n" in declared for extra in (extras[1].split(",") if extras else ()))
        else:
            assert program in ("git", "cd", "source", "ray", "python", "export"), f"{page}: what does {program!r} do?"


@with_blocks("yaml")
def test_recipes_load(page, world):
    world(page)
    for block in blocks(page, "yaml"):
        path = Path(block.file or "block.yaml")
        path.write_text(block.text, encoding="utf-8")
        data = yaml_source.read(path).data
        if not isinstance(data, dict) or "name" not in data:
            continue  # a part of a recipe: that it can be read is all
        kind = recipes.kind_of(path)
        (recipes.load_benchmark if kind == "benchmarks" else recipes.load_strategy)(path)


def test_the_new_method_runs_and_resumes(world, tmp_path):
    from clbinn.experiments.run import run

    page = ROOT / "docs/add_a_method.md"
    world(page)
    files = [block.text for block in blocks(page, "python", "yaml") if block.file]
    assert sum(len(text.splitlines()) for text in files) < 65  # under 60 without the lines that name the files
    stream = recipes.load_benchmark("permuted_digits", ["tasks.count=2", "source.train_size=200"])
    method = recipes.load_strategy("fading_prior.yaml", ["train.epochs=1", "options.mc_samples=2"])
    folder = run(stream, method, 0, tmp_path / "runs", progress=False)
    assert '"resume": "exact"' in (folder / "summary.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["strategies", "benchmarks"])
def test_every_recipe_has_its_place(kind):
    page = ROOT / "docs" / {"strategies": "strategies.md", "benchmarks": "streams.md"}[kind]
    text = page.read_text(encoding="utf-8")
    assert [name for name in recipes.catalogue(kind) if f"`{name}`" not in text] == []


def test_every_command_and_option_is_described():
    text = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    options = {o for c in cli.commands.values() for p in c.params for o in p.opts if o.startswith("--")}
    assert [word for word in [*(f"clbinn {name}" for name in cli.commands), *sorted(options)] if word not in text] == []


def test_published_numbers_are_those_of_the_targets():
    with (recipes.catalogue_folder("benchmarks") / "targets.csv").open(encoding="utf-8") as file:
        targets = {row["id"]: row for row in csv.DictReader(file)}
    text = (ROOT / "docs/methods/published.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) == 16
    for name, cells in rows:
        names = [name.replace("*", data) for data in ("mnist", "cifar10", "cifar100")] if "*" in name else [name]
        for one, cell in zip(names, cells.split(" | "), strict=False):
            value, _, std = cell.partition(" ± ")
            assert float(value) == pytest.approx(100 * float(targets[one]["value"])), one
            assert float(std or 0) == pytest.approx(100 * float(targets[one]["std"] or 0)), one


def anchors(page):
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_points_to_is_there(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", prose):
        if link.startswith("http"):
            continue
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"
    for included in re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE):
        assert (page.parent / included).is_file(), included
    for included, name in re.findall(r"^```\{literalinclude\} (\S+)\n:pyobject: (\S+)$", text, re.MULTILINE):
        tree = ast.parse((page.parent / included).read_text(encoding="utf-8"))
        assert name.partition(".")[0] in {getattr(node, "name", None) for node in tree.body}, name


EXAMPLES = [path for path in sorted((ROOT / "clbinn").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=[str(path.relative_to(ROOT)) for path in EXAMPLES])
def test_examples_in_docstrings_run(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0


def test_names_in_the_prose_exist():
    """Every dotted name in backticks that begins with clbinn can be imported."""
    missing = []
    for page in PAGES:
        for name in set(re.findall(r"`(clbinn(?:\.\w+)+)`", page.read_text(encoding="utf-8"))):
            module, _, attribute = name.rpartition(".")
            try:
                found = hasattr(importlib.import_module(module), attribute) or importlib.import_module(name)
            except ImportError:
                found = False
            if not found:
                missing.append(f"{page.name}: {name}")
    assert missing == []
