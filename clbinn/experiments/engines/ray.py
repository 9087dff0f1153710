"""Runs on a Ray cluster: one task for each, whose run folder travels there and back.

A node needs clbinn installed, and the data where `clbinn data` finds them; no shared disk. The run of a node that is
lost is done again on another one, from where the driver's folder stood.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from clbinn.errors import UserError
from clbinn.experiments.engines.environment import WORKER_ENVIRONMENT
from clbinn.experiments.files import disk_errors, replace_file
from clbinn.experiments.interrupts import Interrupts
from clbinn.experiments.job import Job, RunResult
from clbinn.experiments.progress import Board
from clbinn.experiments.store import BusyError, RunFolder

__all__ = ["RayEngine"]

Files = dict[str, bytes]

RETRIES = 10  # times that a run is done again after its node or process is lost


class RayEngine:
    """Works on jobs in a Ray cluster.

    Args:
        address: Of the cluster, e.g. `10.0.0.1:6379`; None takes the one that runs on this machine, or starts one.
        gpus: Share of a GPU for each run, e.g. 0.25; None is none.
    """

    def __init__(self, address: str | None = None, gpus: float | None = None) -> None:
        self.address, self.gpus = address, gpus

    def __call__(self, jobs: Sequence[Job], board: Board, interrupts: Interrupts) -> Iterator[RunResult]:
        """Results in the order in which they come."""
        ray = _connected(self.address)
        interrupts.catch()  # ray.init() puts handlers of its own in their place
        stop = ray.remote(num_cpus=0)(_Stop).remote()
        task = ray.remote(num_cpus=1, num_gpus=self.gpus or 0, max_retries=RETRIES)(_work)
        with ExitStack() as locks:
            running: dict[Any, Job] = {}
            for job in jobs:
                try:
                    locks.enter_context(RunFolder(job.path).lock())
                except BusyError as error:
                    yield job.ended("failed", str(error))
                    continue
                running[task.remote(job.to_plain(), _read(job.path), stop)] = job
            board.say(f"{len(running)} runs handed to Ray ({ray.cluster_resources().get('CPU', 0):g} processors)")
            told = False
            while running:
                if interrupts.pending and not told:
                    told = True
                    stop.set.remote()
                ready, _ = ray.wait(list(running), timeout=0.2)
                for reference in ready:
                    yield _result(ray, running.pop(reference), reference)


class _Stop:
    """Tells every run, wherever it is, to save and leave."""

    def __init__(self) -> None:
        self._stopped = False

    def set(self) -> None:
        self._stopped = True

    def is_set(self) -> bool:
        return self._stopped


def _connected(address: str | None) -> Any:
    try:
        import ray
    except ImportError:
        raise UserError('engine ray needs Ray: pip install "ray[default]"') from None
    if ray.is_initialized():
        return ray
    home = str(Path(__file__).resolve().parents[3])
    options = {"log_to_driver": False, "runtime_env": {"env_vars": {**WORKER_ENVIRONMENT, "PYTHONPATH": home}}}
    try:
        ray.init(address or "auto", **options)
    except ConnectionError as error:
        if address is not None:
            raise UserError(f"there is no Ray cluster at {address}: {error}") from None
        ray.init(include_dashboard=False, **options)
    return ray


def _work(plain: dict[str, Any], files: Files, stop: Any) -> tuple[dict[str, Any], Files]:
    """On the node: the run in a folder of its own; how it ended, and the folder's files."""
    import ray

    from clbinn.experiments.engines.worker import work

    over = threading.Event()

    def listen() -> None:
        while not over.wait(1.0):
            if ray.get(stop.is_set.remote()):
                os.kill(os.getpid(), signal.SIGTERM)
                return

    with tempfile.TemporaryDirectory(prefix="clbinn-") as folder:
        asked = Job.from_plain(plain)
        job = replace(asked, out=Path(folder))
        job.path.mkdir(parents=True)
        _write(job.path, files)
        threading.Thread(target=listen, daemon=True).start()
        try:
            result = work(job, lambda event: None)
        finally:
            over.set()
        result["message"] = result["message"].replace(str(job.path), str(asked.path))
        return result, _read(job.path)


def _result(ray: Any, job: Job, reference: Any) -> RunResult:
    try:
        result, files = ray.get(reference)
    except ray.exceptions.RayError as error:
        return job.ended("failed", f"{job.path}: Ray lost it: {error}")
    with disk_errors(job.path):
        _write(job.path, files)
    return job.ended(result["status"], result["message"], result["users_mistake"])


def _read(folder: Path) -> Files:
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.name: path.read_bytes() for path in paths if path.is_file() and not path.name.startswith(".")}


def _write(folder: Path, files: Files) -> None:
    # the summary says that all is there, so it comes last
    for name in sorted(files, key=lambda name: name == "summary.json"):
        replace_file(folder / Path(name).name, files[name])
