"""Shards made by a Ray cluster, which schedules them, places them, and repeats what was lost."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haiftrace.errors import UsageError, WorkerError
from haiftrace.index.plan import PlannedShard
from haiftrace.index.shard_maker import ShardMaker
from haiftrace.index.workers.workforce import Made, ShardJob
from haiftrace.progress import Progress
from haiftrace.store import fetch_begun, send_staged, take_staged

if TYPE_CHECKING:
    from haiftrace.corpus.windows import Window
    from haiftrace.store import StagedShard

RETRIES = 3
"""So often Ray gives a shard out again whose worker died."""

CONNECT_SECONDS = 20.0
"""So long the address of a cluster may take to answer."""

BASE_MEMORY = 1 << 30
"""What a worker takes beside the model and its passes."""


class RayCluster:
    """A Ray cluster that runs, on whose nodes haiftrace is, and the index's directory or store.

    Args:
        address: as `ray.init` takes it: "auto", "HOST:PORT" or "ray://HOST:PORT".
        progress: is told what the cluster has.

    Raises:
        UsageError: ray is not installed.
    """

    def __init__(self, address: str, progress: Progress) -> None:
        require_ray()
        self._address = address
        self._progress = progress

    def make(
        self,
        shards: Sequence[PlannedShard],
        maker: ShardMaker,
        job: ShardJob,
        passed: Callable[[Sequence[Window]], None],
        done: Callable[[PlannedShard], None],
    ) -> Generator[Made, None, None]:
        """See `Workforce`."""
        if not shards:
            return
        import ray
        from ray.exceptions import RayError, RayTaskError

        with _connected(self._address):
            resources = _resources(job, maker.model_bytes)
            self._announce(ray.cluster_resources(), resources)
            make = ray.remote(max_retries=RETRIES, **resources)(_make)
            shared = ray.put(job)
            running = {make.remote(shared, planned): planned for planned in shards}
            try:
                while running:
                    (ready,), _ = ray.wait(list(running), num_returns=1)
                    planned = running.pop(ready)
                    staged = ray.get(ready)
                    if job.store is not None:
                        take_staged(job.store, job.root, staged)
                    done(planned)
                    yield planned, staged
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                raise WorkerError(
                    f"Ray gave up on a file of the index after {RETRIES} repetitions:"
                    f" {type(error).__name__}. Workers may be short of memory: each holds the"
                    " model.",
                    "Use a smaller --memory, or larger nodes; the same command goes on from what"
                    " is complete.",
                ) from None
            finally:
                with contextlib.suppress(RayError, ConnectionError):
                    for task in running:
                        ray.cancel(task, force=True)

    def _announce(self, has: dict[str, float], needs: dict[str, float]) -> None:
        places = min(
            int(has.get(name, 0) // needs[key])
            for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory"))
            if needs.get(key)
        )
        where = f"Ray has room for {places:,} workers" if places else "Ray has no room for a worker"
        waiting = "" if places else " yet; waiting for it"
        self._progress.say(
            f"{where}{waiting} (each takes {needs['memory'] / 1e9:.1f} GB and"
            f" {'a GPU' if needs.get('num_gpus') else 'a CPU'})."
        )


def require_ray() -> None:
    """Refuses where ray is not installed.

    Raises:
        UsageError: with the command that installs it.
    """
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UsageError(
            "--ray needs the package ray, which is not installed.",
            "Install it with `pip install 'haiftrace[ray]'`, on every node of the cluster too.",
        ) from None


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    import ray

    if ray.is_initialized():  # by a script that has its own connection
        yield
        return
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UsageError(
            f"There is no Ray cluster at {address}: {str(error).partition(chr(10))[0]}",
            "Start one with `ray start --head`, and name its address with --ray.",
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Ray itself asks an address where nobody answers for many minutes.

    Raises:
        OSError: nobody answers.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _resources(job: ShardJob, model_bytes: int) -> dict[str, float]:
    gpu = job.device.startswith("cuda")
    memory = model_bytes + job.memory + BASE_MEMORY
    return {"num_cpus": 1, "memory": memory, **({"num_gpus": 1} if gpu else {})}


_worker: dict[str, Any] = {}
"""Of a worker process: the maker of the job that it was last given, and its directory."""


def _make(job: ShardJob, planned: PlannedShard) -> StagedShard:
    if _worker.get("job") != job:
        device = "cuda:0" if job.device.startswith("cuda") else "cpu"  # Ray shows a worker its own
        here = job if job.store is None else replace(job, root=_scratch(job.store))
        _worker.update(maker=here.maker(device, 1), job=job, root=here.root)
    maker: ShardMaker = _worker["maker"]
    staged = maker.make(planned)
    if job.store is not None:
        send_staged(job.store, _worker["root"], staged)
    return staged


def _scratch(store: str) -> Path:
    """A directory of this worker, gone with it, with what there is of the index in a store."""
    directory = tempfile.TemporaryDirectory(prefix="haiftrace-")
    _worker["directory"] = directory
    root = Path(directory.name) / "index"
    fetch_begun(store, root)
    return root
