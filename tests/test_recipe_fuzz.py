"""Whatever stands in a file or an override, the loader answers with a recipe or with a RecipeError."""

import random
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clbinn.errors import RecipeError
from clbinn.recipes import catalogue, dump, load_benchmark, load_strategy

TEXTS = [path.read_text(encoding="utf-8") for kind in ("strategies", "benchmarks") for path in catalogue(kind).values()]
PIECES = [
    "{", "}", "[", "]", ": ", ",", "\n", "\n- ", "  ", "\t", "#", "'", '"', "? ", "|\n", ">\n", "&a ", "*a", "!", "<<",
    "!!python/object:os.system ", "%YAML 1.1\n", "---\n", "...\n", "=", "~", "null", "on", "010", "1:30", "1e-3",
    "-.inf", ".nan", "9" * 30, "1e999", "0x", "_", "\\", '"\\x00"', '"\\ud800"', '"\\UFFFFFFFF"', "λ", "\ufeff",
    "\x00", "\u2028", "name: x\n", "extends: bayesbinn\n", "extends: f.yaml\n", "tasks:", "kind: rotate",
    "degrees: [1]", "dataset: mnist", "options: {a: 1}", "train: {epochs: 1, batch_size: 1}\n", "plugins:\n",
    "target: a.B\n", "path: ../x\n",
]  # fmt: skip


LOADERS = (load_benchmark, load_strategy)


def attempt(path, raw, loaders=LOADERS):
    """Load the bytes as a recipe of each kind; anything but a recipe or a RecipeError comes through."""
    path.write_bytes(raw)
    for load in loaders:
        try:
            recipe = load(path)
        except RecipeError as error:
            message = str(error)
            assert message
            assert len(message) < 20_000
        else:
            path.write_text(dump(recipe), encoding="utf-8")
            assert load(path) == recipe
            path.write_bytes(raw)


def mutated(text, chance):
    """A few random changes of a text: pieces put in, spans cut out, repeated or swapped in from other recipes."""
    for _ in range(chance.randint(1, 6)):
        start = chance.randint(0, len(text))
        stop = min(len(text), start + chance.choice([0, 1, 1, 2, 5, 20]))
        change = chance.randrange(4)
        if change == 0:
            text = text[:start] + chance.choice(PIECES) + text[stop:]
        elif change == 1:
            text = text[:start] + text[stop:]
        elif change == 2:
            text = text[:stop] + text[start:stop] * chance.randint(1, 4) + text[stop:]
        else:
            other = chance.choice(TEXTS)
            begin = chance.randint(0, len(other))
            text = text[:start] + other[begin : begin + chance.randint(0, 40)] + text[stop:]
    return text


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "f.yaml"


@given(st.binary(max_size=200))
def test_any_bytes(path, raw):
    attempt(path, raw)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=20).map("".join))
def test_any_pieces_of_yaml(path, text):
    attempt(path, text.encode("utf-8", "replace"))


@given(st.integers(0, 2**32))
def test_shipped_recipes_mutated(path, seed):
    chance = random.Random(seed)
    attempt(path, mutated(chance.choice(TEXTS), chance).encode())


places = st.lists(
    st.sampled_from(["train", "epochs", "model", "hidden", "options", "0", "1", "-1", "", "x"]), max_size=4
)


@given(places.map(".".join), st.sampled_from(PIECES) | st.text(max_size=8))
def test_any_override(key, value):
    for override in (f"{key}={value}", key, value):
        with suppress(RecipeError):
            load_strategy("bayesbinn", [override])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_mutated_recipes(path):
    chance = random.Random(0)
    for _ in range(100_000):
        attempt(path, mutated(chance.choice(TEXTS), chance).encode(), [chance.choice(LOADERS)])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_coverage_guided(tmp_path):
    pytest.importorskip("atheris")
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import atheris
        with atheris.instrument_imports(include=["clbinn", "yaml"]):
            from clbinn import recipes, yaml_source
        from clbinn.errors import RecipeError

        path = Path(sys.argv.pop())

        def attempt(raw):
            path.write_bytes(raw)
            for load in (recipes.load_benchmark, recipes.load_strategy):
                try:
                    load(path)
                except RecipeError:
                    pass

        atheris.Setup(sys.argv, attempt)
        atheris.Fuzz()
        """
    )
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(TEXTS):
        (corpus / str(number)).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", script, corpus, "-runs=100000", "-max_len=2000", "-timeout=20", tmp_path / "f.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
