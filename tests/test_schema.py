import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from clbinn import yaml_source
from clbinn.errors import RecipeError
from clbinn.recipes import SINGULAR, catalogue, load_benchmark, load_strategy
from clbinn.schema import BenchmarkRecipe, ModelSpec, StrategyRecipe, json_schemas


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """The lines of the error that a recipe's text gives, from the file `r.yaml`."""
    monkeypatch.chdir(tmp_path)

    def faults(text, load=load_benchmark, overrides=()):
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load("r.yaml", overrides)
        return str(caught.value).splitlines()

    return faults


def test_all_faults_at_once_in_the_order_of_the_file(faults):
    text = """\
name: Foo
titel: 3
source: {dataset: mnits, normalise: {mean: [0.1, x], std: 0}, download: yes}
scenario: domian
tasks: {kind: permute_pixels, count: 0, sed: 3, first: ident}
"""
    assert faults(text) == [
        "r.yaml:1:7: name: expected small letters, digits and underscores, not 'Foo'",
        "r.yaml:2:1: titel: unknown key; did you mean 'title'?",
        "r.yaml:3:19: source.dataset: 'mnits' is not a dataset (your own is `package.module:callable`); "
        "did you mean 'mnist'?",
        "r.yaml:3:44: source.normalise.mean: expected a number, or a list of numbers, one per channel",
        "r.yaml:3:59: source.normalise.std: must be from 1e-30 to 1e30",
        "r.yaml:3:73: source.download: expected true or false, not 'yes'",
        "r.yaml:4:11: scenario: 'domian' is not known here; did you mean 'domain'?",
        "r.yaml:5:38: tasks.count: must be at least 1, not 0",
        "r.yaml:5:41: tasks.sed: unknown key; did you mean 'seed'?",
        "r.yaml:5:56: tasks.first: 'ident' is not known here; did you mean 'identity'?",
    ]


@pytest.mark.parametrize(
    ("tasks", "fault"),
    [
        ("{kind: rotat}", "1:52: tasks.kind: 'rotat' is not a kind of tasks; did you mean 'rotate'?"),
        ("{kind: [x]}", "1:52: tasks.kind: ['x'] is not a kind of tasks; expected 'permute_pixels', 'split_classes', "
         "'rotate' or 'avalanche'"),
        ("{}", "1:45: tasks: needs 'kind': 'permute_pixels', 'split_classes', 'rotate' or 'avalanche'"),
        ("3", "1:45: tasks: expected a mapping with a 'kind', or a list of tasks, not 3"),
        ("", "1:44: tasks: expected a mapping with a 'kind', or a list of tasks, not nothing"),
        ("{kind: rotate, degrees: []}", "1:69: tasks.degrees: must not be empty"),
        ("{kind: rotate, degrees: 3}", "1:69: tasks.degrees: expected a list, as in [1, 2], not 3"),
        ("{kind: rotate, degrees: [0, x]}", "1:73: tasks.degrees.1: expected a number, not 'x'"),
        ("{kind: rotate, degrees: [.inf]}", "1:70: tasks.degrees.0: expected a finite number, not inf"),
        ("{kind: rotate}", "1:45: tasks: needs 'degrees'"),
        ("{kind: permute_pixels, count: 2.0}", "1:75: tasks.count: expected a whole number, not 2.0"),
        ("{kind: permute_pixels, count: true}", "1:75: tasks.count: expected a whole number, not true"),
        ("{kind: permute_pixels, count: 2, seed: -1}", "1:84: tasks.seed: must be at least 0, not -1"),
        ("{kind: permute_pixels, count: 1000000}", "1:75: tasks.count: must be at most 100000, not 1000000"),
        ("{kind: permute_pixels, count: 2, seed: 4294967296}", "1:84: tasks.seed: must be below 4294967296, not "
         "4294967296"),
        ("{kind: split_classes, per_task: 2, order: [1, 0], seed: 3}", "1:101: tasks.seed: classes are in the order "
         "given or drawn from the seed: keep 'order' or 'seed'"),
        ("{kind: split_classes, per_task: 2, order: [1, 1]}", "1:87: tasks.order: a class stands in the order twice"),
        ("[{dataset: mnist}]", "1:45: tasks: these tasks name their own data; remove 'source', or write `source: "
         "null` over an inherited one"),
    ],
)  # fmt: skip
def test_tasks(faults, tasks, fault):
    assert faults(f"{{name: x, source: {{dataset: digits}}, tasks: {tasks}}}") == [f"r.yaml:{fault}"]


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ("{}", "3:5: tasks.0: needs 'dataset'"),
        ("mnist", "3:5: tasks.0: expected a mapping, as in {key: value}, not 'mnist'"),
        ("{dataset: mnist, rotate: 45}", "3:30: tasks.0.rotate: expected a mapping, as in {key: value}, not 45"),
        ("{dataset: mnist, rotate: {degres: 4, degrees: 4}}", "3:31: tasks.0.rotate.degres: unknown key; did you mean "
         "'degrees'?"),
        ("{dataset: mnist, rotat: {degrees: 4}}", "3:22: tasks.0.rotat: unknown key; did you mean 'rotate'?"),
        ("{dataset: mnist, classes: []}", "3:31: tasks.0.classes: must not be empty"),
        ("{dataset: npz}", "3:5: tasks.0.path: dataset 'npz' needs a 'path'"),
        ("{dataset: npz, path: ../../etc/x.npz}", "3:26: tasks.0.path: a path can't climb with '..'; give the full "
         "path, or keep the data under --data-root"),
        ("{dataset: my.module}", "3:15: tasks.0.dataset: 'my.module' is not a dataset (your own is "
         "`package.module:callable`); expected 'digits', 'mnist5k', 'mnist', 'fashion_mnist', 'cifar10', 'cifar100', "
         "'idx', 'npz', 'images' or 'synthetic'"),
        ("{dataset: mnist, path: my_mnist}", "3:28: tasks.0.path: only idx, npz, images are read from a 'path'; mnist "
         "is not"),
        ("{dataset: mnist, train_size: 0}", "3:34: tasks.0.train_size: must be at least 1, not 0"),
    ],
)  # fmt: skip
def test_list_of_tasks(faults, item, fault):
    assert faults(f"name: x\ntasks:\n  - {item}\n") == [f"r.yaml:{fault}"]


def test_source_is_missed_together_with_other_faults(faults):
    assert faults("name: X\ntasks: {kind: rotate, degrees: [0]}\n") == [
        "r.yaml:1:7: name: expected small letters, digits and underscores, not 'X'",
        "r.yaml:2:8: tasks: these tasks need a 'source' beside them, e.g. source: {dataset: digits}",
    ]


def test_strategy(faults):
    text = """\
name: 3
target: nonsense
model: {kind: my.module}
train: {epoch: 3, batch_size: 1.5}
optimizer: torch.optim.SGD
plugins: {target: a.B}
options: [1]
"""
    assert faults(text, load_strategy) == [
        "r.yaml:1:7: name: expected text, not 3",
        "r.yaml:2:9: target: expected an importable name such as `package.module.Class`, not 'nonsense'",
        "r.yaml:3:15: model.kind: expected the name of a network, or `package.module:callable`, not 'my.module'",
        "r.yaml:4:8: train: needs 'epochs'",
        "r.yaml:4:9: train.epoch: unknown key; did you mean 'epochs'?",
        "r.yaml:4:31: train.batch_size: expected a whole number, not 1.5",
        "r.yaml:5:12: optimizer: expected a mapping, as in {key: value}, not 'torch.optim.SGD'",
        "r.yaml:6:10: plugins: expected a list, as in [1, 2], not {'target': 'a.B'}",
        "r.yaml:7:10: options: expected a mapping, as in {key: value}, not [1]",
    ]


def test_what_is_not_there(faults):
    assert faults("title: x\n", load_strategy) == [
        "r.yaml:1:1: needs 'name'",
        "r.yaml:1:1: needs 'target'",
        "r.yaml:1:1: needs 'train'",
    ]
    assert faults("") == ["r.yaml:1:1: the recipe is empty; it begins with `name: …`"]
    assert faults("- 1\n") == ["r.yaml:1:1: the recipe is not a mapping; it begins with `name: …`"]


def test_values_are_frozen_and_the_network_takes_any_argument():
    model = ModelSpec(kind="mlp", hidden=[3])
    assert model.model_extra == {"hidden": [3]}
    with pytest.raises(ValidationError):
        model.kind = "cnn"


def test_json_schemas_ask_for_what_the_models_ask_for():
    schemas = json_schemas()
    assert set(schemas["strategy"]["properties"]) == {*StrategyRecipe.model_fields, "extends"}
    assert set(schemas["benchmark"]["properties"]) == {*BenchmarkRecipe.model_fields, "extends"}
    assert schemas["strategy"]["additionalProperties"] is False
    kinds = json.dumps(schemas["benchmark"]["$defs"])
    assert all(f'"const": "{kind}"' in kinds for kind in ("permute_pixels", "split_classes", "rotate", "avalanche"))


PARTS = {
    "benchmarks": [
        "name: a\nextends: permuted_mnist\ntasks: {count: 3}\nsource: {train_size: 100}\n",
        "name: a\nextends: split_mnist_task\ntasks: {seed: run}\n",
    ],
    "strategies": ["name: a\nextends: bayesbinn\ntrain: {epochs: 10}\noptimizer: {options: {lr: 0.1}}\n"],
}


@pytest.mark.parametrize("kind", PARTS)
def test_json_schemas_take_what_the_loader_takes(kind):
    schema = json_schemas()[SINGULAR[kind]]
    Draft202012Validator.check_schema(schema)
    validate = Draft202012Validator(schema).validate
    texts = [path.read_text(encoding="utf-8") for path in catalogue(kind).values()] + PARTS[kind]
    for text in texts:
        validate(yaml_source.parse(text, "text").data)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("benchmarks", "name: a\nextends: permuted_mnist\ntasks: {cuont: 3}\n"),
        ("benchmarks", "name: a\nextends: permuted_mnist\ntasks: {count: x}\n"),
        ("strategies", "name: a\nextends: bayesbinn\ntrain: {epoch: 10}\n"),
        ("strategies", "nam: a\n"),
    ],
)
def test_json_schemas_refuse_typos(kind, text):
    assert not Draft202012Validator(json_schemas()[SINGULAR[kind]]).is_valid(yaml_source.parse(text, "text").data)


def test_json_schemas_are_written_for_editors(tmp_path):
    subprocess.run([sys.executable, "-m", "clbinn.schema", tmp_path / "new"], check=True)
    written = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "new").iterdir()}
    assert written == json_schemas()


@pytest.mark.parametrize("name", ["benchmark", "strategy"])
def test_json_schemas_in_the_docs_are_up_to_date(name):
    path = Path(__file__).parents[1] / "docs" / "schema" / f"{name}.json"
    if not path.exists():
        pytest.skip("the docs are not beside the tests")
    shipped, current = json.loads(path.read_text(encoding="utf-8")), json_schemas()[name]
    assert _words(shipped) == _words(current)


def _words(schema):
    """All property names, choices and defaults, without what pydantic's versions may spell differently."""
    if isinstance(schema, list):
        return set().union(*map(_words, schema))
    if not isinstance(schema, dict):
        return set()
    own = {str(schema[key]) for key in ("const", "enum", "default", "pattern") if key in schema}
    return own | set(schema.get("properties", {})) | set().union(*map(_words, schema.values()))
