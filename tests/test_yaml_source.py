import json
import math
import time

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from clbinn.errors import RecipeError
from clbinn.yaml_source import MAX_BYTES, Position, parse, read, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-16", 1e-16),
        ("+2.5E+3", 2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("0", 0),
        ("0.25", 0.25),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("2026-11-24", "2026-11-24"),
        ("1e", "1e"),
        ("inf", "inf"),
        ("=", "="),
        ("clbinn.strategies.BayesBiNN", "clbinn.strategies.BayesBiNN"),
    ],
)
def test_unquoted_scalar(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize("text", ["010", "-007", "0x1F", "0o17", "0b11", "1:30", "190:20:30.15", "1_000", "00.5", "08"])
def test_number_that_is_read_in_two_ways_is_refused(text):
    with pytest.raises(ValueError, match="two ways"):
        scalar(text)
    assert parse(f"'{text}'", "f").data == text


@pytest.mark.parametrize(("text", "message"), [("1e999", "too large"), ("1" * 19, "18 digits"), (".nan", "no meaning")])
def test_number_without_a_value_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        scalar(text)


def test_positions_of_values_and_keys():
    source = parse("name: x\ntasks:\n  - {dataset: mnist,\n     seed: 7}\n  - two\n", "f.yaml")
    assert source.data == {"name": "x", "tasks": [{"dataset": "mnist", "seed": 7}, "two"]}
    assert source.values[("name",)] == Position("f.yaml", 1, 7)
    assert source.keys[("tasks",)] == Position("f.yaml", 2, 1)
    assert source.values[("tasks", 0)] == Position("f.yaml", 3, 5)
    assert source.keys[("tasks", 0, "seed")] == Position("f.yaml", 4, 6)
    assert source.values[("tasks", 0, "seed")] == Position("f.yaml", 4, 12)
    assert source.values[("tasks", 1)] == Position("f.yaml", 5, 5)


def test_keys_are_words_whatever_they_look_like():
    assert parse("{on: 1, yes: 2, null: 3, 010: 4, 1e3: 5, true: 6}", "f").data == {
        "on": 1,
        "yes": 2,
        "null": 3,
        "010": 4,
        "1e3": 5,
        "true": 6,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"f:3:1: a: given twice, first in line 1"),
        ("a: {b: 1, b: 2}", r"f:1:11: a\.b: given twice"),
        ("a: &x [1]\nb: *x", r"f:1:4: anchors"),
        ("b: *x", r"f:1:4: anchors"),
        ("a: !!python/object/apply:os.system ['true']", r"f:1:4: tags such as tag:yaml.org,2002:python"),
        ("!!python/name:os.system a: 1", r"f:1:1: a key must be a plain word"),
        ("a: !!float 3", r"f:1:4: tags"),
        ("a: 1\n---\nb: 2", r"f:2:1: a second document"),
        ("[1, 2]: 3", r"f:1:1: a key must be a word"),
        ("? {a: 1}\n: 2", r"f:1:3: a key must be a word"),
        ("a:\n\t- 1", r"f:2:1: a tab can't indent"),
        ("a: b: c", r"f:1:5: a ':' is not allowed here"),
        ("a: [1, 2", r"f:1:9: not valid YAML"),
        ("a: 'x", r"f:1:6: not valid YAML"),
        ("a: \x00", r"f:1:4: character '\\x00'"),
        ("a: 1\nb: \x1b[31m", r"f:2:4: character '\\x1b'"),
        ('a: "\\x00"', r"f:1:4: a: a control character"),
        ('a: "\\ud800"', r"f:1:4: a: a control character"),
        ('a: "\\UFFFFFFFF"', r"f:1:1: not valid YAML"),
        ("a: 010\nb: 1:30\nc: 1e999", r"f:1:4: a: 010 [^\n]*\nf:2:4: b: 1:30 [^\n]*\nf:3:4: c: 1e999"),
        ("%YAML 1.1\n%YAML 1.1\n---\na: 1", r"f:2:1: not valid YAML"),
    ],
)
def test_fault_with_its_place(text, message):
    with pytest.raises(RecipeError, match=f"^{message}"):
        parse(text, "f")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: " + "{a: " * 10_000,
        "".join(f"{' ' * depth}a:\n" for depth in range(600)),
        "- " * 50_000,
        "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n" for i in range(1000)),
        "? " * 50_000,
        "!" * 100_000,
        "'" * 100_001,
        "{" + "a," * 50_000,
        "\n".join(f"a{i}: 010" for i in range(10_000)),
    ],
    ids=lambda text: text[:6],
)
def test_bombs_are_refused_quickly(text):
    began = time.process_time()
    with pytest.raises(RecipeError) as caught:
        parse(text, "f")
    assert time.process_time() - began < 10
    assert len(str(caught.value)) < 5000


def test_file_that_is_too_large(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_text("a: 1\n" * (MAX_BYTES // 5 + 1))
    with pytest.raises(RecipeError, match="larger than 128 KiB"):
        read(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("name: é".encode("latin-1"), r"f\.yaml:1:7: not UTF-8 text"),
        ("a: 1\nb: é".encode("utf-16"), r"f\.yaml:1:1: not UTF-8 text"),
        (b"a: 1\nbc: \xff", r"f\.yaml:2:5: not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\x00", r"f\.yaml:1:1: not UTF-8 text"),
    ],
)
def test_file_in_another_encoding(tmp_path, monkeypatch, raw, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_bytes(raw)
    with pytest.raises(RecipeError, match=f"^{message}"):
        read(tmp_path / "f.yaml")


def test_utf8_with_byte_order_mark_and_windows_line_ends(tmp_path):
    (tmp_path / "f.yaml").write_bytes("\ufeffname: λ\r\ntrain: {epochs: 1}\r\n".encode())
    source = read(tmp_path / "f.yaml")
    assert source.data == {"name": "λ", "train": {"epochs": 1}}
    assert source.keys[("train",)].line == 2


def test_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="can't be read"):
        read(tmp_path)


plain_text = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=20)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**17), 10**17) | plain_text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
        max_leaves=12,
    )
)
@example({"": [[], {}, None]})
def test_agrees_with_pyyaml_on_what_json_can_say(data):
    text = json.dumps(data, ensure_ascii=False)
    assert parse(text, "f").data == yaml.safe_load(text) == data
