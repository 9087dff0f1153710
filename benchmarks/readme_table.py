"""The table of results in the main README, from the run folders in benchmarks/results."""

from collections.abc import Sequence
from pathlib import Path

from clbinn.report.groups import Group, Stat, Stream

__all__ = ["write_table"]

TITLES = ["recipe", "weights", "epochs a task", "at test time", "n", "after 5 tasks", "newest task", "after 10"]
REMARKS = {
    "joint": "ceiling",
    "per_task": "a network for each task",
    "replay": "2,000 images kept",
    "bayesbinn": "Table 13",
    "bayesbinn_batch": "Table 13",
    "bayesbinn_no_prior": "λ0 = 0",
    "naive": "floor",
    "ewc_avalanche": "Avalanche's",
    "si_avalanche": "Avalanche's, idle on a CPU",
}
EPOCHS_OF_PAPER = {"vcl": 100, "vcl_coreset": 100}
AT_TEST_TIME = {
    "batch": "statistics of the test batch",
    "task": "the task's number",
    "running": "the newest task's statistics",
}
BEGIN, END = "<!-- results: written by `make results` -->\n", "\n<!-- end of results -->"


def write_table(streams: Sequence[Stream], readme: Path) -> None:
    """Put the table between the two marks in `readme`."""
    five, ten = (_groups(streams, name) for name in ("permuted_mnist", "permuted_mnist_10"))
    order = sorted(five.values(), key=lambda group: -group.stat("average_accuracy").mean)
    rows = [TITLES, ["---"] * len(TITLES), *(_row(group, ten.get(group.strategy)) for group in order)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    readme.write_text(before + BEGIN + table + "\n" + END + rest.split(END)[1], encoding="utf-8")


def _groups(streams: Sequence[Stream], benchmark: str) -> dict[str, Group]:
    """The groups of a stream by recipe."""
    found: dict[str, Group] = {}
    for stream in streams:
        if stream.benchmark == benchmark:
            for group in stream.compared:
                if group.strategy in found:
                    raise ValueError(f"{benchmark}: two settings of {group.strategy} in the results; the table has one")
                found[group.strategy] = group
    return found


def _row(group: Group, ten: Group | None) -> list[str]:
    name, epochs, n = group.strategy, group.setting("epochs"), group.stat("average_accuracy").n
    paper = EPOCHS_OF_PAPER.get(name)
    after_ten = ""
    if ten is not None:
        number, of_ten = ten.stat("average_accuracy"), ten.setting("epochs")
        other = "" if (number.n, of_ten) == (n, epochs) else f" (n = {number.n}, {of_ten} epochs)"
        after_ten = _percent(number) + other
    return [
        f"`{name}`" + (f" ({REMARKS[name]})" if name in REMARKS else ""),
        "±1" if group.setting("weight_bits") == 1 else "real",
        f"{epochs}" + (f" (its paper: {paper})" if paper and paper != epochs else ""),
        _at_test_time(group),
        str(n),
        _percent(group.stat("average_accuracy")),
        _percent(Stat(group.stat("learning_accuracy").mean, float("nan"), 1)),
        after_ten,
    ]


def _at_test_time(group: Group) -> str:
    if group.strategy.startswith("per_task"):
        return AT_TEST_TIME["task"]
    if group.setting("weight_bits") != 1 or group.setting("model.norm") == "scale":
        return "nothing else"
    return AT_TEST_TIME.get(group.setting("batch_norm") or "running", "")


def _percent(s: Stat) -> str:
    return f"{100 * s.mean:.1f}" + (f" ± {100 * s.std:.1f}" if s.n > 1 else "")
