import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Literal

import pytest

from clbinn.errors import RecipeError
from clbinn.targets import check_options, import_target


class Base:
    def __init__(self, size: int, *, rate: float = 1.0, **kwargs):
        self.kwargs = kwargs


class Method(Base):
    def __init__(
        self,
        model: object,
        weight: float,
        steps: int = 1,
        carry: bool = True,
        mode: Literal["mean", "mode"] = "mean",
        seed: int | None = None,
        sizes: Sequence[int] | None = None,
        betas: tuple[float | object, float] = (0.9, 0.999),
        untyped_switch=False,
        **kwargs,
    ):
        super().__init__(size=1, **kwargs)


class Closed(Base):
    def __init__(self, name: str = ""):
        super().__init__(1)


def faults(target, options, **settings):
    with pytest.raises(RecipeError) as caught:
        check_options(target, options, **settings)
    return str(caught.value).splitlines()


def test_good_options():
    check_options(
        Method, {"weight": 1, "steps": 3, "carry": False, "mode": "mode", "seed": None, "rate": 1e-3}, given=["model"]
    )
    check_options(
        Method,
        {"weight": 1.5, "seed": 3, "sizes": [1, 2], "betas": [0.9, 1], "model": [], "size": 2, "passed_on": object()},
    )
    check_options(Closed, {})
    check_options(dict, {"anything": 1})
    check_options(math.sqrt, {})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("weight", "1e-3x", "a number, not '1e-3x'"),
        ("weight", True, "a number, not True"),
        ("steps", 1.5, "a whole number, not 1.5"),
        ("carry", "no", "true or false, not 'no'"),
        ("carry", 1, "true or false, not 1"),
        ("mode", "median", "'mean' or 'mode', not 'median'"),
        ("seed", "x", "a whole number, or nothing, not 'x'"),
        ("sizes", "abc", "a list, each a whole number, or nothing, not 'abc'"),
        ("sizes", [1, "b"], "a list, each a whole number, or nothing, not [1, 'b']"),
        ("betas", 0.9, "a list, not 0.9"),
        ("untyped_switch", "off", "true or false, not 'off'"),
        ("rate", [1], "a number, not [1]"),
    ],
)
def test_value_of_the_wrong_type(option, value, expected):
    options = {"weight": 1.0, option: value}
    assert faults(Method, options, given=["model"]) == [f"options.{option}: Method expects {expected}"]


def test_all_faults_in_one_message():
    assert faults(Closed, {"nmae": "x", "size": 3}, where="plugins.0.options") == [
        "plugins.0.options.nmae: Closed has no such option; did you mean 'name'?",
        "plugins.0.options.size: Closed has no such option; expected 'name'",
    ]
    assert faults(Method, {"model": 1, "carry": 2}, given=["model"]) == [
        "options.model: is set elsewhere in the recipe (model, train) or by the run",
        "options.carry: Method expects true or false, not 2",
        "options: Method needs 'weight'",
    ]


def test_functions_and_partials():
    def make(size: int, colour: str = "red") -> None: ...

    check_options(make, {"size": 1})
    assert faults(make, {"sise": 1, "size": 1})[0].endswith("did you mean 'size'?")
    check_options(partial(make, size=1), {"colour": "blue"})


def test_avalanche_strategy_drops_nothing_in_silence():
    supervised = pytest.importorskip("avalanche.training.supervised")
    given = ["model", "optimizer", "criterion", "train_mb_size", "train_epochs", "eval_mb_size", "device", "plugins"]
    check_options(
        supervised.EWC, {"ewc_lambda": 1.0, "mode": "online", "decay_factor": 0.9, "eval_every": -1}, given=given
    )
    assert faults(supervised.EWC, {"ewc_lambda": 1.0, "ewc_mode": "online"}, given=given)[0].startswith(
        "options.ewc_mode: EWC has no such option"
    )


def test_import_target():
    assert import_target("collections.OrderedDict").__name__ == "OrderedDict"
    assert import_target("os.path:join")("a", "b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all.Thing", "target: there is no module 'nowhere_at_all' for 'nowhere_at_all.Thing'"),
        ("collections.nowhere.Thing", "there is no module 'collections.nowhere'"),
        ("collections.OrderedDit", "'collections' has no 'OrderedDit'; did you mean 'OrderedDict'"),
        ("needs_more.Thing", "'needs_more.Thing' needs the module 'nowhere_at_all', which is not installed"),
        ("falls_over.Thing", "'falls_over.Thing' can't be imported: ValueError: not today"),
        ("misspelt.Thing", "'misspelt.Thing' can't be imported: SyntaxError"),
    ],
)
def test_target_that_is_not_there(name, message, tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import nowhere_at_all\n")
    (tmp_path / "falls_over.py").write_text("raise ValueError('not today')\n")
    (tmp_path / "misspelt.py").write_text("clas Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match=message):
        import_target(name)
    sys.modules.pop("falls_over", None)
