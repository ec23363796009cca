"""What every test runs under: one thread a worker, no network, fixed seeds."""

from __future__ import annotations

import os

# Before torch and transformers are imported: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

settings.register_profile(
    "haiftrace",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("haiftrace")

_CONNECT = socket.socket.connect


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Make every attempt to reach another machine fail at once, local Unix sockets excepted."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded(()))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def loopback(_no_network: None) -> Iterator[None]:
    """For a module whose tests steer a program of this machine: that is reached, and no other."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded(("127.0.0.1", "::1")))
    yield
    patch.undo()


def _guarded(hosts: tuple[str, ...]) -> Callable[[socket.socket, Any], None]:
    def connect(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in hosts:
            raise AssertionError("a test tried to use the network")
        _CONNECT(self, address)

    return connect


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
