import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clbinn import recipes
from clbinn.errors import RecipeError
from clbinn.recipes import catalogue, dump, load_benchmark, load_strategy, recipe_hash
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

LOADERS = {"benchmarks": load_benchmark, "strategies": load_strategy}
SHIPPED = [(kind, name) for kind in LOADERS for name in catalogue(kind)]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    return write


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=lambda word: word)
def test_shipped_recipe_loads_and_is_named_as_its_file(kind, name, write):
    recipe = LOADERS[kind](name)
    assert recipe.name == name
    assert recipe.title
    assert LOADERS[kind](write("copy.yaml", dump(recipe))) == recipe


def test_table_13():
    recipe = load_strategy("bayesbinn")
    assert recipe.target == "clbinn.strategies.BayesBiNN"
    assert recipe.model.model_dump() == {"kind": "mlp", "hidden": [100, 100], "norm": "batch"}
    assert (recipe.train.epochs, recipe.train.batch_size) == (100, 100)
    assert recipe.options == {
        "lr": 1e-3,
        "lr_end": 1e-16,
        "temperature": 1e-2,
        "num_samples": 1,
        "init_natural": 10.0,
        "momentum": 0.0,
        "mc_samples": 100,
        "batch_norm": "running",
    }


def test_no_prior_differs_by_one_option():
    carried, forgetful = load_strategy("bayesbinn"), load_strategy("bayesbinn_no_prior")
    assert forgetful.options == {**carried.options, "carry_prior": False}
    assert (forgetful.target, forgetful.model, forgetful.train) == (carried.target, carried.model, carried.train)


# Overrides


def test_overrides_reach_every_kind_of_place():
    recipe = load_strategy(
        "bayesbinn",
        [
            "train.epochs=3",
            "options.lr=1e-4",
            "model.hidden=[200, 200]",
            "model.hidden.1=50",
            "options.new.inner={a: on}",
            "title=a = b",
        ],
    )
    assert recipe.train.epochs == 3
    assert recipe.options["lr"] == 1e-4
    assert recipe.model.model_extra["hidden"] == [200, 50]
    assert recipe.options["new"] == {"inner": {"a": "on"}}
    assert recipe.title == "a = b"


def test_benchmark_overrides_with_and_without_prefix(write):
    path = write("r.yaml", "name: r\nsource: {dataset: digits}\ntasks: {kind: permute_pixels, count: 5}\n")
    assert load_benchmark(path, ["benchmark.tasks.count=10"]).tasks.count == 10
    assert load_benchmark(path, ["tasks.count=10"]).tasks.count == 10
    assert load_benchmark(path, ["tasks={kind: rotate, degrees: [1]}"]).tasks.degrees == [1]


def test_split_overrides():
    assert recipes.split_overrides(["train.epochs=1", "benchmark.tasks.count=2"]) == (
        ["benchmark.tasks.count=2"],
        ["train.epochs=1"],
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=x", "--set train.epochs=x: train.epochs: expected a whole number, not 'x'"),
        ("train.epocs=3", "--set train.epocs=3: train.epocs: unknown key; did you mean 'epochs'?"),
        ("train.epochs=010", "--set train.epochs=010: 010 is read in two ways; write the number in plain digits, or "
         "put text into quotes"),
        ("trian.epochs=3", "--set trian.epochs=3: trian: unknown key; did you mean 'train'?"),
        ("epochs", "--set epochs: write KEY=VALUE, e.g. train.epochs=3 or benchmark.tasks.count=10"),
        ("=3", "--set =3: write KEY=VALUE, e.g. train.epochs=3 or benchmark.tasks.count=10"),
        ("train..epochs=3", "--set train..epochs=3: write KEY=VALUE, e.g. train.epochs=3 or benchmark.tasks.count=10"),
        ("name.first=3", "--set name.first=3: name: holds a plain value, and so has no 'first'"),
        ("model.hidden.2=3", "--set model.hidden.2=3: model.hidden: expected an index below 2, not '2'"),
        ("model.hidden.x=3", "--set model.hidden.x=3: model.hidden: expected an index below 2, not 'x'"),
        ("options={a: [1", "--set options={a: [1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("options={a: *b}", "--set options={a: *b}: anchors (&) and aliases (*) are not used in recipes; write the "
         "value out"),
        ("extends=naive", "--set extends=naive: what a recipe extends is said in its file; name the other recipe "
         "itself"),
        ("train=", "--set train=: train: expected a mapping, as in {key: value}, not nothing"),
    ],
)  # fmt: skip
def test_override_that_is_wrong_is_named(override, message):
    with pytest.raises(RecipeError) as caught:
        load_strategy("bayesbinn", [override])
    assert str(caught.value) == message


def test_many_wrong_overrides_come_together():
    with pytest.raises(RecipeError, match=r"^--set name\.a=1: .*\n--set train: write KEY=VALUE"):
        load_strategy("bayesbinn", ["name.a=1", "train"])


def test_deep_override_is_refused():
    with pytest.raises(RecipeError, match="nested deeper than 16 levels"):
        load_strategy("bayesbinn", ["options" + ".a" * 5000 + "=1"])


# Finding


@pytest.mark.parametrize(
    ("load", "name", "message"),
    [
        (load_strategy, "bayesbin", "unknown strategy 'bayesbin' .*did you mean 'bayesbinn'"),
        (load_benchmark, "permuted_mnst", "unknown benchmark 'permuted_mnst' .*did you mean 'permuted_mnist'"),
        (load_strategy, "permuted_mnist", "unknown strategy 'permuted_mnist': it is the name of a benchmark$"),
        (load_benchmark, "naive", "unknown benchmark 'naive': it is the name of a strategy$"),
        (load_strategy, "qqqq", "unknown strategy 'qqqq' .*expected 'a?.*'bayesbinn'"),
        (load_strategy, "nowhere/x.yaml", "nowhere/x.yaml: there is no such file"),
        (load_strategy, "~nobody_by_this_name/x.yaml", "can't be read"),
        (load_strategy, "x" * 5000 + ".yaml", "can't be read"),
        (load_strategy, "", "unknown strategy ''"),
        (load_strategy, "a\x00b.yaml", "there is no such file"),
        (recipes.kind_of, "bayesbin", "unknown recipe 'bayesbin' .*did you mean 'bayesbinn'"),
    ],
)
def test_unknown_name(load, name, message):
    with pytest.raises(RecipeError, match=message):
        load(name)


def test_kind_of_names_and_files(write):
    assert recipes.kind_of("bayesbinn") == "strategies"
    assert recipes.kind_of("permuted_mnist") == "benchmarks"
    assert recipes.kind_of(write("a.yaml", "tasks: 3")) == "benchmarks"
    assert recipes.kind_of(write("b.yml", "target: 3")) == "strategies"
    assert recipes.kind_of(write("c.yaml", "extends: permuted_digits")) == "benchmarks"
    assert recipes.kind_of(write("d.yaml", "extends: c.yaml")) == "benchmarks"
    assert recipes.kind_of(write("e.yaml", "extends: bayesbinn")) == "strategies"
    assert recipes.kind_of(write("f.yaml", "extends: f.yaml")) == "strategies"


def test_in_catalogue_by_name_and_by_path(write):
    assert recipes.in_catalogue("strategies", "bayesbinn")
    assert recipes.in_catalogue("strategies", catalogue("strategies")["bayesbinn"])
    assert not recipes.in_catalogue("strategies", write("bayesbinn.yaml", "name: x"))


# Extending


STRATEGY = "target: a.B\ntrain: {epochs: 1, batch_size: 2}\n"


def test_extends_merges_mappings_and_replaces_the_rest(write):
    write("base.yaml", f"name: base\ntitle: T\nprovenance: P\n{STRATEGY}model: {{kind: mlp, hidden: [1, 2]}}\n"
          "options: {a: 1, b: {c: 2, d: 3}}\n")  # fmt: skip
    write("middle.yaml", "name: middle\nextends: base.yaml\noptions: {b: {c: 4}, e: 5}\n")
    child = load_strategy(write("child.yaml", "name: child\nextends: middle.yaml\nmodel: {hidden: [7]}\n"))
    assert child.options == {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert child.model.model_extra == {"hidden": [7]}
    assert (child.name, child.title, child.provenance) == ("child", "", "")
    assert "extends" not in dump(child)


def test_another_kind_replaces_its_neighbours(write):
    write("base.yaml", f"name: base\n{STRATEGY}model: {{kind: mlp, hidden: [1]}}\n"
          "optimizer: {target: torch.optim.SGD, options: {momentum: 0.9}}\n")  # fmt: skip
    text = "name: child\nextends: base.yaml\nmodel: {kind: cnn}\noptimizer: {target: torch.optim.Adam}\n"
    child = load_strategy(write("child.yaml", text))
    assert child.model.model_extra == {}
    write("base.yaml", f"name: base\n{STRATEGY}model: {{hidden: [1]}}\n")  # an mlp, without a word
    assert (
        load_strategy(write("other.yaml", "name: other\nextends: base.yaml\nmodel: {kind: cnn}\n")).model.model_extra
        == {}
    )
    assert child.optimizer.options == {}


def test_extends_from_another_folder_is_relative_to_the_file(write, tmp_path):
    (tmp_path / "sub").mkdir()
    write("sub/base.yaml", f"name: base\n{STRATEGY}")
    assert load_strategy(write("sub/child.yaml", "name: child\nextends: base.yaml\n")).target == "a.B"


def test_fault_is_told_where_it_stands(write):
    write("base.yaml", f"name: base\n{STRATEGY}optoins: {{}}\n")
    with pytest.raises(RecipeError) as caught:
        load_strategy(write("child.yaml", "name: child\nextends: base.yaml\n\ntrain: {epochs: 0}\n"))
    assert str(caught.value).splitlines() == [
        "base.yaml:4:1: optoins: unknown key; did you mean 'options'?",
        "child.yaml:4:17: train.epochs: must be at least 1, not 0",
    ]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("self.yaml", r"^self\.yaml:2:10: extends: the recipe extends itself in a circle$"),
        ("bayesbin", r"^self\.yaml:2:10: extends: unknown strategy 'bayesbin' .*'bayesbinn'\?$"),
        ("nowhere.yaml", r"^self\.yaml:2:10: extends: nowhere\.yaml: there is no such file$"),
        ("[1]", r"^self\.yaml:2:10: extends: expected the name or the path of a recipe$"),
    ],
)
def test_extends_nothing_good(write, other, message):
    with pytest.raises(RecipeError, match=message):
        load_strategy(write("self.yaml", f"name: self\nextends: {other}\n"))


def test_circle_of_two(write):
    write("a.yaml", "name: a\nextends: b.yaml\n")
    write("b.yaml", "name: b\nextends: a.yaml\n")
    with pytest.raises(RecipeError, match=r"^b\.yaml:2:10: extends: .*circle"):
        load_strategy("a.yaml")


def test_a_long_chain_is_refused(write):
    for number in range(40):
        write(f"r{number}.yaml", f"name: r\nextends: r{number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="more than 16 files"):
        load_strategy("r0.yaml")


# Writing


def test_recipe_of_a_run_folder_loads_as_both(write):
    benchmark, strategy = load_benchmark("permuted_mnist"), load_strategy("bayesbinn")
    parts = {"benchmark": dump(benchmark), "strategy": dump(strategy)}
    text = "".join(f"{key}:\n" + "".join(f"  {line}\n" for line in part.splitlines()) for key, part in parts.items())
    path = write("recipe.yaml", f"{text}seed: 3\n")
    assert load_benchmark(path) == benchmark
    assert load_strategy(path) == strategy


def test_dump_writes_defaults_out():
    written = yaml.safe_load(dump(load_strategy("bayesbinn")))
    assert written["train"] == {"epochs": 100, "batch_size": 100, "eval_batch_size": 1000}


word = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
tricky = st.sampled_from(
    ["1e-3", "on", "no", "010", "1:30", ".nan", "~", "null", "true", "1_0", "=", "<<", "- a", "!x"]
)
number = st.floats(allow_nan=False) | st.integers(-(10**17), 10**17)
plain = st.recursive(
    st.none() | st.booleans() | number | word | tricky | st.just("two\nlines\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word | tricky, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def round_trip(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "r.yaml"

    def round_trip(recipe):
        path.write_text(dump(recipe), encoding="utf-8")
        return (load_strategy if isinstance(recipe, StrategyRecipe) else load_benchmark)(path)

    return round_trip


@given(options=st.dictionaries(word | tricky, plain, max_size=4), title=word | tricky)
def test_dump_and_load_strategy(round_trip, options, title):
    recipe = StrategyRecipe(
        name="x",
        title=title,
        target="a.B",
        train={"epochs": 1, "batch_size": 2},
        optimizer={"target": "a:b", "options": options},
        plugins=[{"target": "a.C", "options": options}],
        model={"kind": "mlp", "anything": options},
        options=options,
    )
    assert round_trip(recipe) == recipe


@given(
    degrees=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), std=st.floats(1e-9, 9)
)
def test_dump_and_load_benchmark(round_trip, degrees, std):
    recipe = BenchmarkRecipe(
        name="x",
        source={"dataset": "digits", "normalise": {"mean": [0.0, std], "std": std}},
        tasks={"kind": "rotate", "degrees": degrees},
    )
    assert round_trip(recipe) == recipe


def test_float_is_written_as_a_float():
    recipe = StrategyRecipe(
        name="x", target="a.B", train={"epochs": 1, "batch_size": 1}, options={"a": [1e22, math.inf]}
    )
    assert yaml.safe_load(dump(recipe))["options"] == {"a": [1e22, math.inf]}


# Hash


def test_hash_stands_for_the_settings():
    benchmark, strategy = load_benchmark("permuted_mnist"), load_strategy("bayesbinn")
    first = recipe_hash(benchmark, strategy)
    assert len(first) == 8
    assert int(first, 16) >= 0
    assert recipe_hash(load_benchmark("permuted_mnist"), load_strategy("bayesbinn", ["title=other"])) == first
    changed = {
        recipe_hash(benchmark, load_strategy("bayesbinn", ["options.lr=2e-3"])),
        recipe_hash(benchmark, load_strategy("bayesbinn", ["train.epochs=99"])),
        recipe_hash(load_benchmark("permuted_mnist", ["tasks.seed=1"]), strategy),
        recipe_hash(benchmark, load_strategy("bayesbinn_no_prior")),
    }
    assert len(changed | {first}) == 5


def test_infinity_is_neither_nothing_nor_the_same_settings():
    infinite, none = (load_strategy("bayesbinn", [f"options.lr={value}"]) for value in (".inf", ""))
    assert infinite.model_dump(mode="json")["options"]["lr"] == math.inf
    stream = load_benchmark("permuted_digits")
    assert recipe_hash(stream, infinite) != recipe_hash(stream, none)


def test_hash_does_not_depend_on_the_order_of_keys():
    benchmark = load_benchmark("permuted_mnist")
    one = StrategyRecipe(name="x", target="a.B", train={"epochs": 1, "batch_size": 2}, options={"a": 1, "b": 2})
    two = StrategyRecipe(name="x", target="a.B", train={"batch_size": 2, "epochs": 1}, options={"b": 2, "a": 1})
    assert recipe_hash(benchmark, one) == recipe_hash(benchmark, two)


def test_targets_are_all_that_a_run_imports():
    strategy = StrategyRecipe(
        name="x",
        target="a.B",
        train={"epochs": 1, "batch_size": 2},
        model={"kind": "m:net"},
        optimizer={"target": "o.O"},
        plugins=[{"target": "p.P"}, {"target": "a.B"}],
    )
    assert recipes.targets(strategy) == ["a.B", "o.O", "p.P", "m:net"]
    benchmark = BenchmarkRecipe(name="x", tasks=[{"dataset": "mnist"}, {"dataset": "d.e:f"}])
    assert recipes.targets(benchmark) == ["d.e:f"]
