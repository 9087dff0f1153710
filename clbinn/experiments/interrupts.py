"""Ctrl-C and SIGTERM: finish the step, write the checkpoint, leave. A second one leaves at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interrupts"]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did, with everything saved.

    Attributes:
        status: The exit status that the shell expects, 130 after Ctrl-C and 143 after SIGTERM.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interrupts:
    """Remembers that a signal came. Its handlers stand only inside `listen()`.

    Attributes:
        patient: Whether a second signal is as the first. So it is in a worker process, which may be told twice to save
            and leave: by a scheduler that tells every process, and by the process that started it.
    """

    patient = False

    def __init__(self) -> None:
        self._signal: int | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM inside the block; outside the main thread nothing is caught."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        try:
            self.catch()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def catch(self) -> None:
        """Set the handlers again, inside the block of `listen()`; outside the main thread nothing is caught."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        if not self.patient:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @property
    def pending(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    def leave(self, message: str) -> None:
        """Raise `Interrupted` for the signal that came."""
        raise Interrupted(message, 128 + (self._signal or signal.SIGINT))
