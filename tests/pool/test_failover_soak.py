"""Soak: a master dies under load, in a cluster and under Sentinels; nothing that a replica had
confirmed is lost, and work goes on soon after the election."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.exceptions import RedisError

from redis_stream_queue import NotDurable, StreamClient, StreamProducer
from tests.support.cluster import Cluster
from tests.support.ledger import SOURCE, STREAM, Notes
from tests.support.pool import PoolProcess
from tests.support.sentinel import SentinelSet
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_async

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

LOAD_S = 4.0  # before the master dies, and after the election
PUSHERS = 8
WORKING_S = 2.0  # from the election to the first message that was pushed afterwards
FAILOVER_S = 30.0

# url, the master of the stream, and the one that takes over
Set = tuple[str, Server, Server]


@pytest.fixture(params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Iterator[Set]:
    if request.param == "cluster":
        with Cluster.start(node_timeout_ms=1000, replicas=True) as cluster:
            master = cluster.node_of(STREAM)
            yield cluster.url, master, cluster.replicas[cluster.nodes.index(master)]
    else:
        with SentinelSet() as watched:
            yield watched.url, watched.servers[0], watched.servers[1]


async def test_a_master_dies_under_load(
    servers: Set, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    url, master, successor = servers
    notes = Notes(tmp_path / "notes")
    confirmed: dict[str, float] = {}  # id -> when
    uncertain: dict[str, float] = {}  # in the stream of one server alone
    over = asyncio.Event()
    producer = StreamProducer(
        StreamClient.from_url(url, socket_timeout=1), STREAM, min_replicas=1, replica_timeout_ms=200
    )

    async def push() -> None:
        while not over.is_set():
            try:
                confirmed[await producer.push({})] = time.time()
            except NotDurable as error:
                uncertain[error.ids[0]] = time.time()
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.02)

    def handled_after(at_s: float) -> list[float]:
        pushed = {i for i, s in {**confirmed, **uncertain}.items() if s > at_s}
        return [note.at_s for note in notes.of("ended") if note.id in pushed]

    with ExitStack() as stack:
        pool = stack.enter_context(PoolProcess(SOURCE, "--workers", "2", url=url, cwd=tmp_path))
        await asyncio.to_thread(pool.wait_ready)
        pushers = [asyncio.create_task(push()) for _ in range(PUSHERS)]
        await asyncio.sleep(LOAD_S)
        died_s = time.time()
        master.kill()
        await wait_until_async(
            lambda: asyncio.to_thread(_is_master, successor), FAILOVER_S, "the replica is elected"
        )
        elected_s = time.time()
        await wait_until_async(lambda: handled_after(elected_s), FAILOVER_S, "it works again")
        working_s = min(handled_after(elected_s)) - elected_s
        await asyncio.sleep(LOAD_S)
        over.set()
        await asyncio.gather(*pushers)
        await producer.close()
        record_property("election_s", round(elected_s - died_s, 2))
        record_property("working_s", round(working_s, 2))
        record_property("confirmed", len(confirmed))
        print(f"elected {elected_s - died_s:.2f} s after its death, working {working_s:.2f} s "
              f"later; {len(confirmed)} confirmed, {len(uncertain)} not")  # fmt: skip
        assert len(confirmed) > 100
        wait_until(
            lambda: confirmed.keys() <= {note.id for note in notes.of("ended")},
            FAILOVER_S,
            "all that was confirmed is handled",
        )
        assert working_s < WORKING_S
        assert await asyncio.to_thread(pool.drain) == 0
        assert "Traceback" not in pool.stderr


def _is_master(server: Server) -> bool:
    with contextlib.suppress(redis.RedisError), server.client() as client:
        return bool(client.info("replication")["role"] == "master")
    return False
