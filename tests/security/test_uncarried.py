"""What no read can bring in counts like what no handler can handle: others flow past it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from redis_stream_queue import (
    ConsumerConfig,
    DeadLetterQueue,
    DLQError,
    RetryHandler,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    per_message,
)
from tests.support.faultproxy import FaultProxy
from tests.support.servers import Server
from tests.support.waiting import wait_until, wait_until_async

from .conftest import Rsq, StartPool

MB = 1_000_000
LIMIT = "client-output-buffer-limit"


@pytest.fixture
def limited(raw: Any) -> Iterator[Any]:
    """A server that ends a connection whose answer is larger than 1 MB."""
    before = raw.config_get(LIMIT)[LIMIT]
    raw.config_set(LIMIT, "normal 1mb 0 0")
    raw.xgroup_create("s", "g", "0", mkstream=True)
    yield raw
    raw.config_set(LIMIT, before)


def payload(size: int) -> dict[str, bytes]:
    return {"data": json.dumps("x" * (size - 2)).encode()}


class CutsLongReplies(FaultProxy):
    """Resets a connection when a reply on it grows beyond so many bytes at a stretch."""

    most = 50_000

    async def cut(self) -> None:
        raise ConnectionResetError("cut on purpose")

    async def _pump(self, source: Any, sink: Any, is_reply: bool = False) -> None:
        passed, at = 0, 0.0
        while data := await source.read(1 << 14):
            now = time.monotonic()
            passed = passed + len(data) if now - at < 0.1 else len(data)
            at = now
            if is_reply and passed > self.most:
                await self.cut()
            sink.write(data)
            await sink.drain()


@pytest_asyncio.fixture
async def cutting(pool_server: Server, raw: Any) -> AsyncIterator[FaultProxy]:
    assert pool_server.socket_path is not None
    raw.xgroup_create("s", "g", "0", mkstream=True)
    async with CutsLongReplies(pool_server.socket_path) as proxy:
        yield proxy
        await StreamClient.close_all()


async def consume(
    url: str, raw: Any, done: Callable[[], bool], **options: Any
) -> list[tuple[str, int]]:
    """Run a consumer until that is so; returns what was handled."""
    handled: list[tuple[str, int]] = []

    @per_message
    async def handler(message: StreamMessage) -> None:
        handled.append((message.id, message.delivery_count))

    dlq_handler, timeout_s = options.pop("dlq_handler", None), options.pop("socket_timeout", 30)
    config = ConsumerConfig(
        group="g", block_ms=50, retry_delay_ms=20, **{"dlq_stream": "s_dlq", **options}
    )
    client = StreamClient.from_url(url, socket_timeout=timeout_s)
    consumer = StreamConsumer(client, "s", config, handler, dlq_handler)
    task = asyncio.create_task(consumer.run())
    try:
        await wait_until_async(done, 15, "all is settled")
    finally:
        consumer.stop()
        await task
    return handled


def settled(raw: Any, letters: int) -> bool:
    [group] = raw.xinfo_groups("s")
    return raw.xlen("s_dlq") == letters and group["pending"] == 0 and not group["lag"]


def letter_of(raw: Any) -> dict[bytes, Any]:
    """All but its payload, and how large that is; read through a limit."""
    script = """local fields = redis.call('XRANGE', KEYS[1], '-', '+')[1][2]
        fields[2] = tostring(#fields[2]) return fields"""
    flat = raw.eval(script, 1, "s_dlq")
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def test_a_consumer_behind_a_limit(
    pool_url: str, limited: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="redis_stream_queue")
    before = [limited.xadd("s", payload(200)).decode() for _ in range(5)]
    large = limited.xadd("s", payload(5_200_000)).decode()
    after = [limited.xadd("s", payload(200)).decode() for _ in range(5)]
    handled = await consume(pool_url, limited, lambda: settled(limited, 1))
    assert sorted(handled) == sorted((i, 1) for i in before + after)
    letter = letter_of(limited)
    assert letter[b"data"] == b"5200000"
    assert letter[b"original_id"].decode() == large
    assert letter[b"delivery_count"] == b"3"
    assert b"5.2 MB could not be read in" in letter[b"last_error"]
    assert caplog.text.count(f"message {large} of stream s: 5.2 MB could not be read in") == 3
    assert "delivery 3 of 3" in caplog.text


@pytest.mark.parametrize(("name", "sizes"), [(None, (2 * MB, 3 * MB)), ("given", (2 * MB,))])
async def test_a_dlq_handler_gets_what_can_be_had(
    pool_url: str, limited: Any, name: str | None, sizes: tuple[int, ...]
) -> None:
    """Beside others that only together are too large; also where namesakes are possible."""
    dead: list[tuple[str, bytes, str]] = []

    async def dlq_handler(message: StreamMessage, reason: str) -> None:
        dead.append((message.id, message.data, message.headers.get("rsq:last_error", "")))

    large = [limited.xadd("s", payload(size)).decode() for size in sizes]
    several = [limited.xadd("s", payload(300_000)).decode() for _ in range(4 * len(sizes))]
    handled = await consume(
        pool_url,
        limited,
        lambda: settled(limited, len(sizes)),
        dlq_handler=dlq_handler,
        worker_name=name,
        min_idle_claim_ms=300,
    )
    assert sorted({i for i, _ in handled}) == several
    assert len(handled) == len(several)
    assert [(i, data) for i, data, _ in sorted(dead)] == [(i, b"") for i in large]
    assert all("could not be read in" in error for _, _, error in dead)


async def test_a_line_that_cuts(cutting: FaultProxy, raw: Any) -> None:
    large = raw.xadd("s", payload(400_000)).decode()
    others = [raw.xadd("s", payload(20_000)).decode() for _ in range(12)]
    handled = await consume(
        cutting.url, raw, lambda: settled(raw, 1), max_deliveries=2, dlq_stream="s_dlq"
    )
    assert sorted(i for i, _ in handled) == others
    assert letter_of(raw)[b"original_id"].decode() == large


async def test_what_has_thousands_of_fields_leaves_a_letter_that_says_so(
    pool_url: str, limited: Any
) -> None:
    """No script can copy it, and nobody can read it in."""
    fields = {"data": "1", **{f"f{n}": "x" * 500 for n in range(5000)}}
    entry_id = limited.xadd("s", fields)
    await consume(pool_url, limited, lambda: settled(limited, 1), max_deliveries=1)
    [(_, letter)] = limited.xrange("s_dlq")
    assert letter[b"original_id"] == entry_id
    assert b"2.5 MB could not be read in" in letter[b"last_error"]
    with pytest.raises(DLQError, match="has no payload"):
        await DeadLetterQueue(StreamClient.from_url(pool_url), "s_dlq").requeue()
    await StreamClient.close_all()
    assert limited.xlen("s") == 1


async def test_a_retry_handler_goes_past_it(pool_url: str, limited: Any) -> None:
    sizes = (2 * MB, 100, 300_000, 300_000, 300_000, 300_000)
    ids = [limited.xadd("s", payload(size)).decode() for size in sizes]
    limited.xgroup_setid("s", "g", ids[-1])
    limited.xclaim("s", "g", "gone", 0, ids, idle=60_000, retrycount=3, force=True, justid=True)
    told: dict[str, tuple[int, str]] = {}

    async def dlq_handler(message: StreamMessage, reason: str) -> None:
        told[message.id] = len(message.data), message.headers.get("rsq:last_error", "")

    client = StreamClient.from_url(pool_url)
    assert await RetryHandler(client, "s", "g", dlq_handler).handle_poison_pills() == len(ids)
    await StreamClient.close_all()
    assert [told[i][0] for i in ids] == [0, *(size - 2 for size in sizes[1:])]
    assert told[ids[0]][1].startswith("2.0 MB could not be read in")
    assert settled(limited, 0)


async def test_a_line_on_which_long_answers_fall_silent(pool_server: Server, raw: Any) -> None:
    """Nothing is reset: the answer just stops."""
    assert pool_server.socket_path is not None

    class Stops(CutsLongReplies):
        async def cut(self) -> None:
            await asyncio.sleep(60)

    raw.xgroup_create("s", "g", "0", mkstream=True)
    large = raw.xadd("s", payload(400_000)).decode()
    others = [raw.xadd("s", payload(1000)).decode() for _ in range(3)]
    async with Stops(pool_server.socket_path) as proxy:
        handled = await consume(
            proxy.url, raw, lambda: settled(raw, 1), max_deliveries=1, socket_timeout=0.3
        )
        proxy.reset_all()
        await StreamClient.close_all()
    assert sorted(i for i, _ in handled) == others
    assert letter_of(raw)[b"original_id"].decode() == large


async def test_an_outage_counts_nothing(pool_server: Server, raw: Any) -> None:
    """However large the message is that it cuts off, again and again."""
    assert pool_server.socket_path is not None
    raw.xgroup_create("s", "g", "0", mkstream=True)
    entry_id = raw.xadd("s", payload(2 * MB)).decode()
    async with FaultProxy(pool_server.socket_path) as proxy:

        async def trouble() -> None:
            for _ in range(4):
                proxy.cut_after = 500_000
                await wait_until_async(lambda: proxy.cut_after == 0, 10, "it was cut")
                proxy.refuse = True
                proxy.reset_all()
                await asyncio.sleep(0.1)
                proxy.refuse = False
            proxy.cut_after = None

        troubled = asyncio.create_task(trouble())
        handled = await consume(proxy.url, raw, lambda: settled(raw, 0), max_deliveries=1)
        await troubled
        await StreamClient.close_all()
    assert handled == [(entry_id, 1)]


def test_letters_that_cannot_be_read_in(limited: Any, rsq: Rsq) -> None:
    """They are named, the others are shown; they can be sent back and thrown away."""
    ours = {"original_stream": "s", "original_id": "1-1", "group": "g", "reason": "rejected"}
    more = {"delivery_count": "1", "worker": "w", "dead_letter_ts": "1", "last_error": "no"}

    def letter(**own: Any) -> str:
        entry_id: bytes = limited.xadd("s_dlq", {**own, **ours, **more})
        return entry_id.decode()

    small, large = letter(data="1"), letter(**payload(2 * MB))
    several = [letter(**payload(300_000)) for _ in range(5)]
    fields = letter(**{f"f{n}": "x" * 500 for n in range(5000)})
    lost = letter(**{"rsq:lost": "why"})
    ids = [small, large, *several, fields, lost]
    listed = rsq("dlq", "list", "s")
    assert [line.split()[0].decode() for line in listed.stdout.splitlines()] == ids
    shown = [json.loads(line) for line in rsq("dlq", "list", "s", "--json").stdout.splitlines()]
    assert [one["id"] for one in shown] == ids
    unread = {one["id"]: one["unread"] for one in shown if one["data"] is None}
    assert set(unread) == {large, fields}
    assert unread[large].startswith("2.0 MB could not be read in: ")
    assert b"2.0 MB could not be read in" in rsq("dlq", "show", "s", large).stdout
    assert rsq("dlq", "show", "s", several[0]).stdout.count(b"x") >= 299_998

    done = rsq("dlq", "requeue", "s", small, large, fields, lost)
    assert done.returncode != 0
    assert f"letter {fields}: 2.5 MB could not be read in".encode() in done.stderr
    assert f"letter {lost} has no payload".encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert (limited.xlen("s"), limited.xlen("s_dlq")) == (2, 7)
    assert b"purged: 1 dead letter" in rsq("dlq", "purge", "s", fields).stdout
    assert b"purged: 6 dead letters" in rsq("dlq", "purge", "s", "--reason", "rejected").stdout
    assert limited.xlen("s_dlq") == 0


APP = """
from redis_stream_queue import per_message, stream_handler

def buried(message, reason):
    print("buried", message.id, len(message.data), message.headers["rsq:last_error"], flush=True)

@stream_handler("s", group="g", retry_delay_ms=20, max_deliveries=3{more})
@per_message
def handler(message):
    print("did", message.id, message.delivery_count, flush=True)
"""


@pytest.mark.parametrize("more", ["", ", dlq_handler=buried"])
def test_a_pool_behind_a_limit(limited: Any, start_pool: StartPool, more: str) -> None:
    """It goes on with others; what an earlier pool had used up is buried, too."""
    used_up = limited.xadd("s", payload(3 * MB)).decode()
    limited.xclaim("s", "g", "g:retry:1", 0, [used_up], retrycount=3, force=True, justid=True)
    limited.xgroup_setid("s", "g", used_up)
    large = limited.xadd("s", payload(5_200_000)).decode()
    pool = start_pool(APP.format(more=more), "--workers", "2")
    wait_until(lambda: f"message {large} of stream s: 5.2 MB" in pool.stderr, 10, "it was named")
    others = [limited.xadd("s", payload(100)).decode() for _ in range(20)]
    wait_until(lambda: all(f"did {i} 1" in pool.stdout for i in others), 10, "others flow")
    wait_until(lambda: settled(limited, 2), 15, "both are buried")
    assert pool.drain(10) == 0
    assert pool.stderr.count(f"message {large} of stream s: 5.2 MB could not be read in") == 3
    assert pool.stdout.count("did") == len(others)
    if more:
        told = [line.split()[:3] for line in pool.stdout.splitlines() if "buried" in line]
        assert sorted(told) == [["buried", used_up, "0"], ["buried", large, "0"]]


DIES = """
import os, threading, time
from redis_stream_queue import per_message, stream_handler

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def die_of_it():
    most = used() + 30_000_000
    while used() < most:
        time.sleep(0.002)
    os.kill(os.getpid(), 9)

threading.Thread(target=die_of_it, daemon=True).start()

@stream_handler("s", group="g", max_deliveries=2)
@per_message
def handler(message):
    print("did", message.id, flush=True)
"""


def test_what_kills_a_worker_while_it_is_read_in(raw: Any, start_pool: StartPool) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    large = raw.xadd("s", payload(60 * MB)).decode()
    others = [raw.xadd("s", payload(100)).decode() for _ in range(5)]
    pool = start_pool(DIES, "--workers", "1")
    wait_until(lambda: settled(raw, 1), 15, "it is buried")
    assert letter_of(raw)[b"original_id"].decode() == large
    assert all(f"did {i}" in pool.stdout for i in others)
    assert f"message {large} of stream s: 60.0 MB could not be read in: its worker" in pool.stderr
    assert "delivery 2 of 2" in pool.stderr
