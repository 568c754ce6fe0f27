"""Each role works with exactly the rights in docs/security.md, and says which one it lacks."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from redis_stream_queue import BacklogFull, StreamClient, StreamProducer, UnsupportedServer
from tests.support.guarded import documented
from tests.support.pool import PoolProcess
from tests.support.servers import NAMES, Server

from .conftest import Rsq

SERVERS = [*NAMES, *(["redis-7.0"] if shutil.which("redis-server") else [])]
APP = """
from redis_stream_queue import Reject, per_message, stream_handler

@stream_handler("s", group="g", retry_delay_ms=20, max_deliveries=2, max_stream_size=1)
@per_message
def handler(message):
    if message.data == "reject":
        raise Reject("no")
    if message.data == "fail" or (message.data == "retry" and message.delivery_count == 1):
        raise ValueError("no")
    if message.data == "die":
        import os
        os._exit(7)
"""


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server.start(request.param, tcp=True, password="root") as started:
        yield started


def user(server: Server, *rights: str, keys: tuple[str, ...] = ("~s", "~s_dlq")) -> str:
    """URL of a user with these rights alone, on an empty server."""
    with server.client() as client:
        client.flushall()
        client.xgroup_create("s", "g", "0", mkstream=True)
    return user_again(server, *rights, keys=keys)


def user_again(server: Server, *rights: str, keys: tuple[str, ...]) -> str:
    """The same on the server as it is."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", *keys, *rights)
    return f"redis://u:pw@127.0.0.1:{server.port}/0"


def test_a_pool_with_its_rights(server: Server, tmp_path: Path) -> None:
    """It handles, retries, buries, recovers from a death and trims."""
    url = user(server, *documented("pool, StreamConsumer"))
    with server.client() as client:
        for data in ["ok"] * 50 + ["fail", "retry", "reject", "die"]:
            client.xadd("s", {"data": f'"{data}"'})
        with PoolProcess(APP, "--workers", "2", "--burst", url=url, cwd=tmp_path) as pool:
            assert pool.wait() == 1  # because there are dead letters
            said = [x for x in pool.stderr.lower().splitlines() if "scheduled" not in x]
            assert not re.search("permission|noperm", "\n".join(said))
        assert client.xpending("s", "g")["pending"] == 0
        assert client.xlen("s_dlq") == 3


def test_what_is_scheduled_needs_rights_of_its_own(server: Server, tmp_path: Path) -> None:
    """The pool says which; with them, and a producer with its own, all that is scheduled works."""
    needed = documented("pool, StreamConsumer")
    own = documented("the same, for what is [scheduled, paused or unique](later.md)")
    with PoolProcess(APP, "--workers", "1", url=user(server, *needed), cwd=tmp_path) as pool:
        [asked] = pool.wait_log("scheduled.*ACL SETUSER name (.*)").groups()
        assert asked.split() == ["~{s}:*", *own]
    producing = documented("producer, scheduled and unique messages")
    url = user(server, *producing, keys=("~s", "~{s}:*"))
    producer = StreamProducer(StreamClient.from_url(url), "s", group="g", max_scheduled=9)
    gone = producer.push_sync("gone", delay_ms=3_600_000)
    producer.push_sync("ok", delay_ms=1, dedup_id="a", unique="b")
    assert asyncio.run(producer.cancel(gone))
    url = user_again(server, *needed, *own, keys=("~s", "~s_dlq", "~{s}:*"))
    with PoolProcess(APP, "--workers", "1", "--burst", url=url, cwd=tmp_path) as pool:
        assert pool.wait() == 0
        assert not re.search("permission|noperm", pool.stderr.lower())
    with server.client() as client:
        assert client.xinfo_stream("s")["length"] == 1
        assert client.xpending("s", "g")["pending"] == 0


def test_a_producer_with_xadd_alone(server: Server) -> None:
    url = user(server, *documented("producer"))
    producer = StreamProducer(StreamClient.from_url(url), "s")
    assert producer.push_sync(1)
    assert len(producer.push_many_sync([1, 2, 3])) == 3


def test_a_producer_with_all_its_features(server: Server) -> None:
    url = user(server, *documented("producer, all features"))
    producer = StreamProducer(StreamClient.from_url(url), "s", max_len=5, max_backlog=2000)
    for _ in range(2):
        producer.push_many_sync([1] * 600)
    with pytest.raises(BacklogFull):
        producer.push_many_sync([1] * 2000)


def test_rsq_with_its_rights(server: Server, rsq: Rsq) -> None:
    url = user(server, *documented("rsq stats, rsq dlq"))
    with server.client() as client:
        client.xadd("s", {"data": "1"})
        client.xreadgroup("g", "c", {"s": ">"})
        for _ in range(3):
            client.xadd("s_dlq", {"data": "1", "original_stream": "s"})
    for args in (
        ("stats", "s"),
        ("dlq", "list", "s"),
        ("dlq", "requeue", "s", "--all", "--dry-run"),
        ("dlq", "requeue", "s", "--newer-than", "1h"),
        ("dlq", "purge", "s", "--all"),
    ):
        done = rsq(*args, url=url)
        assert done.returncode == 0, done.stderr
        assert b"permission" not in done.stderr.lower()


def test_rsq_control_with_its_rights(server: Server, rsq: Rsq) -> None:
    rights = documented("rsq pause, resume, cancel, show, later")
    url = user(server, *rights, keys=("~s", "~{s}:*", "~s_dlq"))
    with server.client() as client:
        entry_id = client.xadd("s", {"data": "1"}).decode()
        client.xreadgroup("g", "c", {"s": ">"})
    for args in (
        ("pause", "s"),
        ("resume", "s"),
        ("show", "s", entry_id),
        ("cancel", "s", entry_id),
        ("later", "list", "s"),
    ):
        done = rsq(*args, url=url)
        assert done.returncode == 0, done.stderr


def test_a_backlog_that_cannot_be_seen_is_said(server: Server) -> None:
    """And nothing is pushed, as the bound could not be kept."""
    url = user(server, "+xadd", "+eval", "+evalsha")
    producer = StreamProducer(StreamClient.from_url(url), "s", max_backlog=5)
    with pytest.raises(UnsupportedServer, match=r"xinfo\|groups|xinfo") as error:
        producer.push_sync(1)
    assert "ACL SETUSER" in str(error.value)
    with server.client() as client:
        assert client.xlen("s") == 0


@pytest.mark.parametrize("server", ["redis-6.2"], indirect=True)
def test_trimming_that_is_not_permitted_is_said(server: Server, tmp_path: Path) -> None:
    rights = [r for r in documented("pool, StreamConsumer") if not r.startswith("+xinfo")]
    url = user(server, *rights)
    with PoolProcess(APP, "--workers", "1", url=url, cwd=tmp_path) as pool:
        pool.wait_log(r"is not trimmed, and its group would begin anew at 0.*xinfo")


def test_only_what_is_missing_is_named(server: Server, tmp_path: Path) -> None:
    needed = documented("pool, StreamConsumer")
    url = user(server, *(right for right in needed if right not in ("+xclaim", "+xtrim")))
    with PoolProcess(APP, "--workers", "1", url=url, cwd=tmp_path) as pool:
        assert pool.wait() == 4
        [asked] = re.findall(r"ACL SETUSER name (.*)", pool.stderr)
        assert asked.split() == ["+xclaim", "+xtrim"]
