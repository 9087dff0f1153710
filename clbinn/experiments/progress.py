"""What is seen of a run while it goes on: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from clbinn.output import write

__all__ = ["Board", "reporter"]


class Board:
    """Shows any number of runs.

    Args:
        total: Number of runs; more than one gets a bar of its own for the whole.
        shown: False shows failures alone.
        stream: Where it is written; standard error by default.
    """

    def __init__(self, total: int = 1, shown: bool = True, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._shown = shown
        self._live = shown and self._stream is not None and self._stream.isatty()
        self._bars: dict[str, tqdm[Any]] = {}
        self._seen: dict[str, list[float]] = {}
        self._total = None
        if self._live and total > 1:
            self._total = tqdm(total=total, desc="runs", unit="run", file=self._stream, position=0)

    def event(self, run: str, event: dict[str, Any]) -> None:
        """Show what a run tells of itself."""
        kind = event["event"]
        if not self._shown:
            return
        if kind == "note":
            self.say(f"{run}: {event['text']}")
        elif kind == "progress" and self._live:
            bar = self._bar(run)
            bar.n = round(event["done"], 4)
            bar.set_postfix_str(f"task {event['task']}/{event['tasks']}", refresh=False)
            bar.refresh()
        elif kind == "evaluation":
            self._remember(run, event)
        elif kind == "task":
            self._task(run, event)

    def say(self, text: str) -> None:
        """One line, above the bars."""
        if self._live:
            tqdm.write(text, file=self._stream)
        else:
            write(self._stream, text)

    def finish(self, run: str, text: str = "") -> None:
        """A run has come to its end."""
        bar = self._bars.pop(run, None)
        if bar is not None:
            bar.close()
        if text:
            self.say(f"{run}: {text}")
        if self._total is not None:
            self._total.update()

    def close(self) -> None:
        """Take the bars away."""
        for bar in self._bars.values():
            bar.close()
        if self._total is not None:
            self._total.close()

    def _bar(self, run: str) -> "tqdm[Any]":
        if run not in self._bars:
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            self._bars[run] = tqdm(total=1.0, desc=run, bar_format=form, file=self._stream, leave=False)
        return self._bars[run]

    def _remember(self, run: str, event: dict[str, Any]) -> None:
        if event["test_task"] == 1:
            self._seen[run] = []
        if event["test_task"] <= event["after_task"]:
            self._seen.setdefault(run, []).append(event["accuracy"])

    def _task(self, run: str, event: dict[str, Any]) -> None:
        accuracies = self._seen.pop(run, [])
        mean = f", {sum(accuracies) / len(accuracies):.1%} on the tasks so far" if accuracies else ""
        self.say(f"{run}: task {event['task']} of {event['tasks']} learned{mean}")


@contextmanager
def reporter(progress: bool | Callable[[dict[str, Any]], None], run: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The function that gets a run's events: the given one, one that shows them, or one that doesn't."""
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda event: None
    else:
        board = Board()
        try:
            yield lambda event: board.event(run, event)
        finally:
            board.close()
