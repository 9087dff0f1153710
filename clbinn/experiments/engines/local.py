"""Runs in processes of this machine. A worker process takes one run after the other; one that dies is replaced."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from clbinn.experiments.engines.environment import WORKER_ENVIRONMENT
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.job import Job, RunResult
from clbinn.experiments.progress import Board

__all__ = ["LocalEngine"]


class LocalEngine:
    """Works on jobs in several processes.

    Args:
        workers: Processes at the same time, ≥ 1.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __call__(self, jobs: Sequence[Job], board: Board, interrupts: Interrupts) -> Iterator[RunResult]:
        """Results in the order in which they come."""
        waiting = deque(jobs)
        news: queue.SimpleQueue[tuple[Job, dict[str, Any]] | None] = queue.SimpleQueue()
        slots = [_Slot(waiting, news) for _ in range(min(self.workers, len(jobs)))]
        working = len(slots)
        told = False
        try:
            while working:
                if interrupts.pending and not told:
                    told = True
                    waiting.clear()
                    for slot in slots:
                        slot.stop()
                try:
                    item = news.get(timeout=0.1)
                except queue.Empty:
                    continue
                if item is None:
                    working -= 1
                elif item[1]["event"] == "result":
                    yield item[0].ended(item[1]["status"], item[1]["message"], item[1]["users_mistake"])
                else:
                    board.event(item[0].name, item[1])
        finally:
            for slot in slots:
                slot.kill()


class _Slot:
    """A thread that keeps one worker process busy."""

    def __init__(self, waiting: "deque[Job]", news: "queue.SimpleQueue[tuple[Job, dict[str, Any]] | None]") -> None:
        self._waiting, self._news = waiting, news
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed with the slot)
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """Ask the run to save and leave."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process, if it is still there."""
        process = self._process  # its thread may let go of it meanwhile
        if process is not None:
            process.kill()

    def _work(self) -> None:
        try:
            while True:
                try:
                    job = self._waiting.popleft()
                except IndexError:
                    return
                try:
                    self._run(job)
                except OSError as error:  # no process, no memory for one
                    told = {"event": "result", "status": "failed", "users_mistake": False}
                    self._news.put((job, told | {"message": f"no worker process could be started: {error}"}))
        finally:
            self._close()
            self._log.close()
            self._news.put(None)

    def _close(self) -> None:
        if self._process is not None:
            self._process.communicate()  # closes its input: it leaves when nothing more can come
            self._process = None

    def _run(self, job: Job) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._close()
        if self._process is None:
            self._process = self._start()
        process = self._process
        if self._stopped:  # while it was being started
            process.send_signal(signal.SIGTERM)
        assert process.stdin is not None  # noqa: S101 (both are pipes)
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(job.to_plain()) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event = json.loads(line)
                self._news.put((job, event))
                if event["event"] == "result":
                    if event["status"] == "interrupted":  # it takes no other
                        self._close()
                    return
        except (OSError, ValueError):
            pass
        status = process.wait()
        self._news.put((job, self._died(job, status)))

    def _start(self) -> Any:
        self._log.seek(0)
        self._log.truncate()
        path = [entry or os.getcwd() for entry in sys.path]  # what we can import, it can
        code = f"import sys; sys.path[:] = {path!r}; from clbinn.experiments.engines.worker import main; main()"
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **WORKER_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C comes to us alone; we tell the workers
        )

    def _died(self, job: Job, status: int) -> dict[str, Any]:
        if status == -signal.SIGTERM:
            message = f"{job.path}: its process was stopped; the same command goes on with it"
            return {"event": "result", "status": "interrupted", "message": message, "users_mistake": False}
        self._log.seek(0)
        last = "\n".join(self._log.read().splitlines()[-5:])
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        message = f"{job.path}: its process ended {how}; the same command goes on with it\n{last}".rstrip()
        return {"event": "result", "status": "failed", "message": message, "users_mistake": False}
