"""The Ray engine on a real cluster of two nodes on this machine."""

import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from clbinn.experiments.grid import run_grid
from clbinn.experiments.interrupts import Interrupted

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


def outcomes(kit, results):
    assert [result.status for result in results] == ["done"] * len(results)
    return [kit.outcome(result.path) for result in results]


def test_same_numbers_as_local(kit, tmp_path, cluster):
    strategies = [kit.strategy("bayesbinn"), kit.plain()]
    local = run_grid(kit.stream(), strategies, [0, 1], out=tmp_path / "local", jobs=2, device="cpu", progress=False)
    on_ray = {"engine": "ray", "ray_address": cluster.address, "progress": False}
    far = run_grid(kit.stream(), strategies, [0, 1], out=tmp_path / "ray", **on_ray)
    assert all(map(kit.same, outcomes(kit, local), outcomes(kit, far)))


def test_sigterm_saves_and_leaves(kit, tmp_path, cluster):
    strategy = kit.strategy("bayesbinn", "train.epochs=3000")

    def stop():
        node = Path(tempfile.gettempdir())
        deadline = time.monotonic() + 120
        while not any(node.glob("clbinn-*/tiny/*/seed-0/checkpoint.pt")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match="stopped with 1 of 1 runs to go") as caught:
        run_grid(kit.stream(), [strategy], [0], out=tmp_path, engine="ray", ray_address=cluster.address, progress=False)
    assert caught.value.status == 143
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == 1


def test_a_failure_names_the_folder_of_the_driver(kit, tmp_path, cluster):
    strategy = kit.plain(optimizer={"target": "torch.optim.SGD", "options": {"lr": 1e30}})
    [failed] = run_grid(
        kit.stream(), [strategy], [0], out=tmp_path, engine="ray", ray_address=cluster.address, progress=False
    )
    assert failed.status == "failed"
    assert failed.message.startswith(f"{failed.path}: task 1")


def workers():
    """Processes that work on a run of ours."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline") as file:
                    if "ray::_work" in file.read():
                        found.append(int(name))
            except OSError:
                continue
    return found


def test_killed_worker_is_replaced(kit, tmp_path, cluster):
    strategy = kit.strategy("bayesbinn", "train.epochs=100")
    [local] = run_grid(kit.stream(), [strategy], [0], out=tmp_path / "local", device="cpu", progress=False)
    killed = []

    def kill():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for pid in workers():
                time.sleep(1)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    far = run_grid(
        kit.stream(), [strategy], [0], out=tmp_path / "ray", engine="ray", ray_address=cluster.address, progress=False
    )
    thread.join()
    assert killed
    assert kit.same(outcomes(kit, [local]), outcomes(kit, far))


def test_node_that_is_lost(kit, tmp_path, cluster):
    strategies = [kit.strategy("bayesbinn", "train.epochs=60")]
    node = cluster.add_node(num_cpus=1)
    timer = threading.Timer(12, lambda: cluster.remove_node(node))
    timer.start()
    results = run_grid(
        kit.stream(), strategies, [0, 1, 2], out=tmp_path, engine="ray", ray_address=cluster.address, progress=False
    )
    timer.join()
    assert [result.status for result in results] == ["done"] * 3
