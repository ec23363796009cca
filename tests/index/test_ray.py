"""An index from a Ray cluster is the same to the last bit, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import kit
from tests.index.index_kit import complete_content, until
from tests.index.test_workers import arguments, begun, durable, plain  # noqa: F401 (a fixture)
from tests.kit import cli, refused


def test_ray_that_is_not_installed_is_an_error_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = cli(*arguments(tmp_path / "index", "--ray", "auto"))
    refused(outcome, "needs the package ray")
    assert "pip install 'haiftrace[ray]'" in outcome.err
    assert not (tmp_path / "index").exists()


@pytest.fixture(scope="module")
def cluster():
    """Of one node that has room for three workers."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_raylet_start_wait_time_s", "600")
        node = {"num_cpus": 3, "object_store_memory": 80 << 20, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=node)
        yield made
        made.shutdown()


def workers(cluster):
    """Processes of the cluster that make shards at this moment."""
    ((raylet, *_),) = [
        processes for kind, processes in cluster.head_node.all_processes.items() if kind == "raylet"
    ]
    busy = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_bytes()
            if parent == raylet.process.pid and title.startswith(b"ray::_make"):
                busy.append(int(folder.name))
    return busy


@pytest.mark.slow
def test_a_cluster_makes_the_same_index(tmp_path, cluster, plain):  # noqa: F811
    with begun(tmp_path / "index", "--ray", cluster.address) as command:
        _, err = command.communicate(timeout=900)
    assert command.returncode == 0, err
    assert "Ray has room for 3 workers" in err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_ray_repeats_what_a_killed_worker_had(tmp_path, cluster, plain):  # noqa: F811
    with begun(tmp_path / "index", "--ray", cluster.address) as command:
        durable(command, tmp_path / "index", 2)
        until(lambda: workers(cluster), 300)
        os.kill(workers(cluster)[0], signal.SIGKILL)
        _, err = command.communicate(timeout=900)
    assert command.returncode == 0, err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path, cluster, plain):  # noqa: F811
    with begun(tmp_path / "index", "--ray", cluster.address) as command:
        durable(command, tmp_path / "index", 2)
    with begun(tmp_path / "index", "--ray", cluster.address) as command:
        _, err = command.communicate(timeout=900)
    assert command.returncode == 0, err
    assert "Going on after" in err
    assert complete_content(tmp_path / "index") == plain


@pytest.mark.slow
def test_no_cluster_is_an_error(tmp_path):
    pytest.importorskip("ray")
    with begun(tmp_path / "index", "--ray", "127.0.0.1:1") as command:
        _, err = command.communicate(timeout=900)
    refused(kit.Outcome(command.returncode, "", err), "There is no Ray cluster at 127.0.0.1:1")
