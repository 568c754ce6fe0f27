"""Every message is in exactly one place, whatever happens in whatever order."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from redis_stream_queue.delivery import in_flight
from redis_stream_queue.pool.scoreboard import Scoreboard
from redis_stream_queue.pool.worker import loop as pool_worker
from tests.support.servers import Server

from .machine import LONG_MS, Messages
from .process import VIRTUAL, scripts

# Trimming is approximate: it removes whole nodes of so many entries.
SMALL_NODES = ["--stream-node-max-entries", "2"]


@pytest.fixture(scope="session")
def model_server(_no_process_left: None) -> Iterator[Server]:
    """A valkey-9.1 of the model alone, with every script loaded."""
    with Server.start("valkey-9.1", extra_args=[*SMALL_NODES, "--appendonly", "no"]) as server:
        with server.client() as client:
            for script in {*scripts(), *VIRTUAL.values()}:
                client.script_load(script.source)
        yield server


@pytest.fixture(scope="session")
def scoreboards() -> list[Scoreboard]:
    return [Scoreboard(), Scoreboard()]


@pytest.fixture
def machine(
    model_server: Server, scoreboards: list[Scoreboard], monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[Messages]]:
    monkeypatch.setattr(pool_worker, "BLOCK_MS", 0)
    monkeypatch.setattr(in_flight, "LONG_MS", LONG_MS)
    log = logging.getLogger("redis_stream_queue")
    monkeypatch.setattr(log, "disabled", True)
    with model_server.client(decode_responses=True) as client:
        bound = {"server": client, "url": model_server.url, "scoreboards": scoreboards}
        yield type("Messages", (Messages,), bound)


def _run(machine: type[Messages], examples: int, *, derandomize: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            derandomize=derandomize,  # the same examples in each run
        ),
    )


@pytest.mark.long
def test_model(machine: type[Messages]) -> None:
    _run(machine, 40, derandomize=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_model_soak(machine: type[Messages]) -> None:
    _run(machine, 500, derandomize=False)
