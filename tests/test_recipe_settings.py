from clbinn.recipe_settings import OBSERVERS, settings
from clbinn.recipes import load_strategy

RECIPE = {"name": "ewc", "title": "A title", "provenance": "A table", "train": {"epochs": 3}, "options": {"lr": 0.1}}


def test_settings_are_leaves_that_have_an_effect():
    assert settings(RECIPE) == {"train.epochs": 3, "options.lr": 0.1, "plugins": "none"}


def test_plugins_appear_by_class_name_and_options():
    plugins = [{"target": "mine.data.Replay", "options": {"mem_size": 200, "by": "class"}}, {"target": "mine.Log"}]
    assert settings({"plugins": plugins})["plugins"] == "Replay(mem_size=200, by=class), Log"


def test_plugins_that_only_observe_are_left_out():
    plugins = [{"target": target, "options": {}} for target in OBSERVERS]
    assert settings(RECIPE | {"plugins": plugins}) == settings(RECIPE)


def test_whole_recipes_and_damaged_ones_have_settings():
    assert settings(load_strategy("bayesbinn").model_dump())["options.temperature"] == 0.01
    assert settings({"plugins": [3]})["plugins"] == "3"
    assert settings({"plugins": "x", "options": None}) == {"plugins": "none", "options": None}
