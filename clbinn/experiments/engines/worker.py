"""A worker process of the local engine: takes jobs as lines of JSON on its input and writes events on its output.

When the input ends, which it does also when the process that started it dies, a run that is under way saves and leaves.
"""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import Any

from clbinn.errors import RunError, UserError, describe
from clbinn.experiments.interrupts import Interrupted, Interrupts
from clbinn.experiments.job import Job
from clbinn.experiments.run import run
from clbinn.experiments.store import BusyError

__all__ = ["main", "work"]

PATIENCE = float(os.environ.get("CLBINN_PATIENCE", 10))  # seconds for a process that was told to leave the same run


def work(job: Job, send: Any) -> dict[str, Any]:
    """Do one job; how it ended, as the event `result`."""
    path = job.path
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                run(
                    job.benchmark,
                    job.strategy,
                    job.seed,
                    job.out,
                    data_root=job.data_root,
                    download=job.download,
                    device=job.device,
                    progress=send,
                    checkpoint_seconds=job.checkpoint_seconds,
                )
                return _result("done")
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    except Interrupted as error:
        return _result("interrupted", str(error))
    except UserError as error:
        return _result("failed", str(error), users_mistake=not isinstance(error, BusyError))
    except RunError as error:
        return _result("failed", str(error))
    except Exception as error:
        traceback.print_exc()
        return _result("failed", f"{path}: {describe(error)}")


def _result(status: str, message: str = "", users_mistake: bool = False) -> dict[str, Any]:
    return {"event": "result", "status": status, "message": message, "users_mistake": users_mistake}


def main() -> None:
    """Work until the input ends."""
    Interrupts.patient = True
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not come between our lines
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put(None)
        if busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def send(event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # where nobody listens any more, the end of the input tells us to leave
            output.write(json.dumps(event) + "\n")

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        busy.set()
        result = work(Job.from_plain(json.loads(line)), send)
        busy.clear()
        send(result)
        if result["status"] == "interrupted":
            break


if __name__ == "__main__":
    main()
