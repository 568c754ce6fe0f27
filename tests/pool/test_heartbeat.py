"""What runs is seen from outside: on the right host and slot, for as long as it runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from redis_stream_queue.cli.rsq import main
from redis_stream_queue.operations.heartbeat import INDEX, POOL, TTL_S
from tests.support.ledger import DLQ, GROUP, SOURCE, STREAM, Ledger
from tests.support.pool import PoolProcess, plain_environment
from tests.support.rsq import RSQ
from tests.support.servers import Server
from tests.support.terminal import Terminal
from tests.support.waiting import wait_until

RIGHTS = (
    "+ping +type +eval +evalsha +xreadgroup +xack +xclaim +xpending +xadd +xrange +xtrim +xlen "
    "+xinfo|groups +xinfo|stream +xgroup|create +xgroup|createconsumer +xgroup|delconsumer "
    "~work ~work_dlq"
)

StartPool = Callable[..., PoolProcess]


def said(url: str, *args: str) -> str:
    """What rsq prints; it runs in this process, which takes a tenth of the time."""
    done = CliRunner().invoke(main, [*args, "--url", url])
    assert done.exit_code == 0, done.output
    return done.output


def asked(url: str, *args: str) -> Any:
    return json.loads(said(url, *args, "--json"))


def shown(url: str, count: int) -> list[dict[str, Any]]:
    """What rsq running shows once it shows so many."""
    lines: list[dict[str, Any]] = []

    def look() -> bool:
        lines[:] = asked(url, "running")["running"]
        return len(lines) == count

    wait_until(look, 15, f"{count} running message(s) are shown")
    return lines


def test_a_long_message_is_shown_where_it_runs(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    """Also while its handler holds the GIL; with its age, not that of its last renewal."""
    pool = start_pool("--workers", "2")
    [held] = ledger.push({"do": "hold_gil", "s": 60})
    [note] = ledger.wait_started(1)
    [line] = shown(pool_url, 1)
    since_s = time.time() - note.at_s

    assert (line["id"], line["pid"], line["stream"]) == (held, note.pid, STREAM)
    assert line["host"] == socket.gethostname()
    assert line["slot"] == pool.workers().index(note.pid)
    assert abs(line["running_ms"] / 1000 - since_s) < 1
    [entry] = asked(pool_url, "pending", STREAM)["pending"]
    assert (entry["id"], entry["state"], entry["slot"]) == (held, "running", line["slot"])
    assert f"on {line['host']} slot {line['slot']}" in said(pool_url, "pending", STREAM)

    seen = asked(pool_url, "top")
    assert (seen["streams"][0]["stream"], seen["pools"][0]["pid"]) == (STREAM, pool.pid)
    assert held in said(pool_url, "top", "--once")
    with Terminal([*RSQ, "top", "--interval", "0.2"], plain_environment(pool_url)) as terminal:
        terminal.wait_shown("1 busy at ")
        terminal.press("w")
        terminal.wait_shown(held)
        terminal.press("q")
        assert terminal.process.wait(15) == 0

    os.kill(note.pid, signal.SIGKILL)  # it is run again, by another process
    wait_until(lambda: shown(pool_url, 1)[0]["pid"] not in (0, note.pid), 15, "the second run")

    [line] = shown(pool_url, 1)
    said(pool_url, "cancel", STREAM, held)
    gone = CliRunner().invoke(main, ["show", STREAM, held, "--url", pool_url])
    assert gone.exit_code == 1
    assert f"still runs: on {line['host']}, slot {line['slot']}, for " in gone.output
    assert f"kill -9 {line['pid']} there ends it" in gone.output


@pytest.mark.parametrize("target", ["app:lanes", "app:batch"])
def test_of_several_in_one_worker_the_oldest_is_shown(
    start_pool: StartPool, ledger: Ledger, pool_url: str, target: str
) -> None:
    start_pool("--workers", "1", target=target)
    ids = ledger.push(*({"do": "sleep", "s": 60} for _ in range(3)))
    ledger.wait_started(1)
    [line] = shown(pool_url, 1)

    assert line["id"] == ids[0]


def test_a_pool_that_ends_leaves_nothing(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    """At once if it ends in good order; else it expires. With --no-heartbeat it writes nothing."""
    pools = [start_pool("--workers", "1") for _ in range(2)]
    wait_until(lambda: len(keys(ledger)) == 2, 15, "both are written down")
    assert all(0 < ledger.redis.ttl(key) <= TTL_S for key in keys(ledger))

    assert pools[0].drain() == 0
    assert len(keys(ledger)) == ledger.redis.zcard(INDEX) == 1
    assert [p["pid"] for p in asked(pool_url, "running")["pools"]] == [pools[1].pid]
    assert pools[1].drain() == 0
    assert ledger.redis.exists(INDEX) == 0

    silent = start_pool("--workers", "1", "--no-heartbeat")
    ledger.wait_settled(ledger.push({"do": "ok"}))
    assert silent.drain() == 0
    assert keys(ledger) == []


def keys(ledger: Ledger) -> list[bytes]:
    return list(ledger.redis.scan_iter(f"{POOL}*"))


def test_without_the_rights_the_work_goes_on(
    pool_server: Server, ledger: Ledger, tmp_path: Path
) -> None:
    """It is said once, with the rights that are missing; and rsq pending does without."""
    ledger.redis.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", *RIGHTS.split())
    url = pool_server.url.replace("unix://", "unix://u:pw@")
    with PoolProcess(SOURCE, "--workers", "1", url=url, cwd=tmp_path) as pool:
        pool.wait_log(r"no heartbeat: .*ACL SETUSER name ~rsq:\* ")
        ledger.wait_settled(ledger.push({"do": "ok"}, {"do": "reject"}))
        assert pool.drain() == 0
        assert pool.stderr.count("no heartbeat") == 1
    assert ledger.redis.xlen(DLQ) == 1
    assert "nothing is pending" in said(url, "pending", STREAM)


def test_nonsense_in_the_index_harms_nobody(
    start_pool: StartPool, ledger: Ledger, pool_url: str
) -> None:
    """Whoever may write there makes up neither pools that live nor lines that lie."""
    later = time.time() * 1000 + 60_000
    values: dict[str, Any] = {"a": b"\xff", "b": b"\x80", "c": b"\x81\xa1v\x01", "\x1b[2J": b"x"}
    for name, value in values.items():
        ledger.redis.set(POOL + name, value)
        ledger.redis.zadd(INDEX, {POOL + name: later})
    ledger.redis.hset(f"{POOL}hash", "a", "b")
    ledger.redis.zadd(INDEX, {f"{POOL}hash": later, f"{POOL}gone": later, "work": later})
    pool = start_pool("--workers", "1")

    wait_until(lambda: len(asked(pool_url, "running")["pools"]) == 1, 15, "the pool is shown")
    assert asked(pool_url, "running")["pools"][0]["pid"] == pool.pid
    assert asked(pool_url, "running", STREAM)["pools"][0]["group"] == GROUP
    assert asked(pool_url, "running", "other")["pools"] == []
