"""The page that describes the shipped strategies: `python -m clbinn.catalogue_page > strategies/README.md`."""

from clbinn.recipes import catalogue, load_strategy

__all__ = ["strategies_page"]

HEAD = """\
# Strategies

One YAML file is one learning method with all its settings. `clbinn run STREAM -s NAME` runs it, `clbinn show NAME`
prints it with its defaults written out, and `--set options.lr=1e-3` changes a setting for one run.

| recipe | what it is | class | settings from |
|---|---|---|---|
"""

TAIL = """
## Your own

A file anywhere on the disk is a strategy; give its path: `clbinn run STREAM -s path/to/mine.yaml`.

```yaml
name: mine
title: What it is, in one line
target: my_package.MyStrategy          # any subclass of Avalanche's SupervisedTemplate
model: {kind: mlp, hidden: [100, 100]}
train: {epochs: 10, batch_size: 100}
optimizer: {target: torch.optim.Adam, options: {lr: 1.0e-3}}
options: {strength: 0.5}               # keyword arguments of the class
```

A variant names what it takes over and says only what is different. Mappings are merged key by key, everything else is
replaced, and so is a mapping with another `kind`, `dataset` or `target`:

```yaml
name: bayesbinn_short
title: BayesBiNN, ten epochs a task
extends: bayesbinn                     # a name of this folder, or a path from this file
train: {epochs: 10}
```
"""


def strategies_page() -> str:
    """Markdown with a row for each strategy of the catalogue."""
    rows = []
    for name, path in catalogue("strategies").items():
        recipe = load_strategy(name)
        rows.append(f"| [`{name}`]({path.name}) | {recipe.title} | `{recipe.target}` | {recipe.provenance} |\n")
    return f"{HEAD}{''.join(rows)}{TAIL}"


if __name__ == "__main__":
    print(strategies_page(), end="")
