"""Lines for people to read. A reader that leaves early (`head`, a closed terminal) does not stop the work."""

import io
import os
import sys
from typing import IO

__all__ = ["replace_unknown", "to_stderr", "to_stdout", "write"]


def write(stream: IO[str] | None, text: object, end: str = "\n") -> None:
    """Write at once.

    Args:
        stream: None is the stream of a process that was started with it closed: nothing is written.
        text: What is written.
        end: What follows.
    """
    if stream is None:
        return
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:  # what is still in the buffer must have a place to go to, at the latest at exit
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def to_stdout(text: object, end: str = "\n") -> None:
    """Write to standard output at once."""
    write(sys.stdout, text, end)


def to_stderr(text: str, end: str = "\n") -> None:
    """Write to standard error at once."""
    write(sys.stderr, text, end)


def replace_unknown() -> None:
    """Let ? stand for letters that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
