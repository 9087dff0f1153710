"""One run on disk: the files of a run folder and who may write to them."""

import fcntl
import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clbinn.errors import UserError
from clbinn.experiments.files import append_line, make_folder, replace_file
from clbinn.recipes import dump, recipe_hash
from clbinn.schema import BenchmarkRecipe, StrategyRecipe

__all__ = ["CURRENT", "PREVIOUS", "BusyError", "RunFolder", "is_finished", "run_path"]

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.prev.pt"


class BusyError(UserError):
    """Another process works on the run."""


def run_path(out: Path, benchmark: BenchmarkRecipe, strategy: StrategyRecipe, seed: int) -> Path:
    """`<out>/<benchmark>/<strategy>-<hash>/seed-<n>`; the hash is of both recipes as resolved."""
    return out / benchmark.name / f"{strategy.name}-{recipe_hash(benchmark, strategy)}" / f"seed-{seed}"


def is_finished(path: Path) -> bool:
    """Whether a folder holds a finished run: a whole summary.json, and of the seed that the folder is named after."""
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a damaged one is written anew from the last checkpoint
        return False
    return isinstance(summary, dict) and f"seed-{summary.get('seed')}" == path.name


class RunFolder:
    """The files of one run.

    Args:
        path: The folder; it is made if it isn't there.

    Raises:
        UserError: It can't be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(path)
        self._events = path / "events.jsonl"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return is_finished(self.path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the operating system lets go of it when the process ends, however it ends.

        Raises:
            BusyError: Another process holds it.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                who = file.read().strip() or "unknown"
                raise BusyError(
                    f"{self.path}: another process (pid {who}) works on this run; it is left to it"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def write_recipe(self, benchmark: BenchmarkRecipe, strategy: StrategyRecipe, seed: int) -> None:
        """recipe.yaml: everything resolved, enough to run it again."""
        parts = {"benchmark": dump(benchmark), "strategy": dump(strategy)}
        text = "".join(f"{key}:\n{textwrap.indent(part, '  ')}" for key, part in parts.items())
        replace_file(self.path / "recipe.yaml", f"{text}seed: {seed}\n")

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """A JSON file; numbers that are not finite become null."""
        replace_file(self.path / name, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")

    def hashes(self) -> dict[str, str]:
        """Of the data that environment.json names; none where it is missing or can't be read."""
        try:
            found = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))["hashes"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return found if isinstance(found, dict) else {}

    def check_same_data(self, hashes: dict[str, str]) -> None:
        """Raise UserError for a run that was begun with other data; it would end as if all of it had been these."""
        begun = any((self.path / name).exists() for name in (CURRENT, PREVIOUS))
        before = self.hashes() if begun else {}
        changed = [name for name, value in before.items() if value != hashes.get(name)]
        if changed:
            raise UserError(
                f"{self.path}: this run was begun with other data ({', '.join(changed)} changed): put them back, or "
                "move the folder away to begin anew"
            )

    def append_event(self, event: str, **facts: Any) -> dict[str, Any]:
        """One line of events.jsonl, with the time."""
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}
        append_line(self._events, json.dumps(_finite(line), ensure_ascii=False))
        return line

    def events(self) -> Iterator[dict[str, Any]]:
        """All events so far, one after the other: of a thousand tasks there are a million.

        Raises:
            ValueError: A line is not JSON.
        """
        if self._events.exists():
            with self._events.open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def events_size(self) -> int:
        """Bytes of events.jsonl, which are on the disk when this returns."""
        with self._events.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def cut_events(self, size: int) -> bool:
        """Forget the events after the first `size` bytes. False if there are not that many."""
        if not self._events.exists() or self._events.stat().st_size < size:
            return size == 0
        os.truncate(self._events, size)
        return True

    def start_matrix(self, tasks: int, rows: NDArray[np.float64]) -> None:
        """accuracy_matrix.csv with its header and the rows there are."""
        header = ",".join(["trained_task", *(f"test_task_{j + 1}" for j in range(tasks))])
        lines = [header, *(_row(i, row) for i, row in enumerate(rows))]
        replace_file(self.path / "accuracy_matrix.csv", "\n".join(lines) + "\n")

    def append_row(self, index: int, row: NDArray[np.float64]) -> None:
        """One more row of accuracy_matrix.csv."""
        append_line(self.path / "accuracy_matrix.csv", _row(index, row))


def _row(index: int, row: NDArray[np.float64]) -> str:
    return ",".join([str(index), *(repr(float(value)) for value in row)])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
