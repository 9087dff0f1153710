import re

import pytest

from clbinn import recipes
from clbinn.catalogue_page import strategies_page


def test_page_has_a_row_for_each_strategy():
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+\.yaml)\) \| .+ \| `[\w.]+` \|", strategies_page(), re.MULTILINE)
    assert rows == [(name, f"{name}.yaml") for name in recipes.catalogue("strategies")]


def test_recipes_on_the_page_load(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", strategies_page(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "r.yaml").write_text(block, encoding="utf-8")
        assert recipes.load_strategy(tmp_path / "r.yaml").title


def test_readme_is_up_to_date():
    path = recipes.catalogue_folder("strategies") / "README.md"
    if not path.exists():
        pytest.skip("the page is not beside the recipes")
    assert path.read_text(encoding="utf-8") == strategies_page()
