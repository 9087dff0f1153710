"""The tables of results in the main README, from the run folders in benchmarks/results."""

from collections.abc import Sequence
from pathlib import Path

from clbinn.report.groups import Group, Stat, Stream, stat

__all__ = ["write_tables"]

TITLES = ["recipe", "weights", "epochs a task", "at test time", "n", "after 5 tasks", "newest task", "after 10"]
RAW_TITLES = ["recipe", "epochs a task", "n", "after 5 tasks", "newest task", "after 10"]
REMARKS = {
    "joint": "ceiling",
    "joint_bayesbinn": "ceiling of ±1",
    "per_task": "a network for each task",
    "per_task_bayesbinn": "a network for each task",
    "replay": "2,000 images kept",
    "gdumb": "2,000 images kept",
    "vcl_coreset": "200 images of each task kept",
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
END = "\n<!-- end of results -->"


def write_tables(streams: Sequence[Stream], readme: Path) -> None:
    """Put the tables between their marks in `readme`."""
    five, ten = (_groups(streams, name) for name in ("permuted_mnist", "permuted_mnist_10"))
    order = sorted(five.values(), key=lambda group: -group.stat("average_accuracy").mean)
    _put("results", TITLES, [_row(group, ten.get(group.strategy)) for group in order], readme)
    raw = [g for s in streams if s.benchmark in ("permuted_mnist_raw", "permuted_mnist_10_raw") for g in s.compared]
    raw.sort(key=lambda group: -_after(group, 5).mean)
    _put("results on raw pixels", RAW_TITLES, [_raw_row(group) for group in raw], readme)


def _put(name: str, titles: list[str], rows: list[list[str]], readme: Path) -> None:
    lines = [titles, ["---"] * len(titles), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    begin = f"<!-- {name}: written by `make results` -->\n"
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    readme.write_text(before + begin + table + "\n" + END + rest.split(END, 1)[1], encoding="utf-8")


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
    after_ten = ""
    if ten is not None:
        number, of_ten = ten.stat("average_accuracy"), ten.setting("epochs")
        other = "" if (number.n, of_ten) == (n, epochs) else f" (n = {number.n}, {of_ten} epochs)"
        after_ten = _percent(number) + other
    return [
        _name(name),
        "±1" if group.setting("weight_bits") == 1 else "real",
        _epochs(group),
        _at_test_time(group),
        str(n),
        _percent(group.stat("average_accuracy")),
        _newest(group),
        after_ten,
    ]


def _raw_row(group: Group) -> list[str]:
    return [
        _name(group.strategy),
        _epochs(group),
        str(_after(group, 5).n),
        _percent(_after(group, 5)),
        _newest(group),
        _percent(_after(group, 10)) if group.curves is not None and group.curves.shape[1] == 10 else "",
    ]


def _after(group: Group, tasks: int) -> Stat:
    """Average accuracy after so many tasks."""
    return stat([] if group.curves is None else [float(curve[tasks - 1]) for curve in group.curves])


def _newest(group: Group) -> str:
    """Mean accuracy of each of the first five tasks, just learned."""
    matrix = group.mean_matrix
    return "" if matrix is None else f"{100 * matrix[1:].diagonal()[:5].mean():.1f}"


def _name(strategy: str) -> str:
    return f"`{strategy}`" + (f" ({REMARKS[strategy]})" if strategy in REMARKS else "")


def _epochs(group: Group) -> str:
    epochs, paper = group.setting("epochs"), EPOCHS_OF_PAPER.get(group.strategy)
    return f"{epochs}" + (f" (its paper: {paper})" if paper and paper != epochs else "")


def _at_test_time(group: Group) -> str:
    if group.strategy.startswith("per_task"):
        return AT_TEST_TIME["task"]
    if group.setting("weight_bits") != 1 or group.setting("model.norm") == "scale":
        return "nothing else"
    return AT_TEST_TIME.get(group.setting("batch_norm") or "running", "")


def _percent(s: Stat) -> str:
    return f"{100 * s.mean:.1f}" + (f" ± {100 * s.std:.1f}" if s.n > 1 else "")
