"""The architecture holds: which part imports which, what is light, what the package lists."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "clbinn"

# Each part may import the parts before it, and itself.
ORDER = [
    {"errors", "seeding", "checks", "compiled", "output"},
    {"bernoulli", "packed"},
    {"yaml_source", "recipe_faults", "schema", "targets", "recipes", "recipe_settings"},
    {"optim", "nn"},
    {"predict"},
    {"benchmarks", "evaluation"},
    {"strategies"},
    {"report", "terminal"},
    {"experiments"},
    {"catalogue_page", "cli", "__main__"},
]
LEVEL = {part: level for level, parts in enumerate(ORDER) for part in parts}


def imports(path):
    """The parts of clbinn that a file imports, and the outside packages, wherever in the file."""
    inside, outside = set(), set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) + 1 - node.level], node.module or ""]) if node.level else node.module
            )
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "clbinn" else [base]
        else:
            continue
        for name in names:
            first, *rest = name.rstrip(".").split(".")
            inside.add(rest[0]) if first == "clbinn" and rest else outside.add(first)
    return inside & set(LEVEL), outside - {"clbinn"}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    later = {name for name in imports(path)[0] if LEVEL[name] > LEVEL[part]}
    assert not later, f"{part} imports {later}"
    if part in ("bernoulli", "optim", "packed", "predict"):
        assert "avalanche" not in imports(path)[1]


def test_every_part_has_a_place_in_the_order():
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - {"__init__"}
    assert parts == set(LEVEL)


@pytest.mark.parametrize(
    "statement", ["import clbinn", "import clbinn.cli", "import clbinn.report", "import clbinn.recipes"]
)
def test_what_is_light_stays_light(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'avalanche', 'torchvision') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("part", ["optim", "nn", "packed", "predict"])
def test_the_method_needs_no_avalanche(part):
    code = f"import clbinn.{part}, sys; print('avalanche' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_package_list_is_complete():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    data = {"clbinn.recipes_data.strategies", "clbinn.recipes_data.benchmarks", "clbinn.recipes_data.benchmarks.paper"}
    assert listed == there | data


def test_files_have_one_job():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_citation_and_package_name_the_same_version():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert f"version: {config['metadata']['version']}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {config['metadata']['version']}" in (ROOT / "CHANGELOG.md").read_text()
