"""Keys beside a stream that others have written, or that may not be touched: what needs them says
so, all else goes on, and nothing is there twice for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from redis_stream_queue import Every, Mover, StreamClient, StreamProducer
from redis_stream_queue._names import BESIDE, beside
from tests.library.kit import GROUP, Bench, RecordingHandler, running
from tests.support.servers import Server

HOUR_MS = 3_600_000
PUSHES: dict[str, dict[str, Any]] = {
    "now": {},
    "later": {"delay_ms": HOUR_MS},
    "once": {"dedup_id": "x"},
    "unique": {"unique": "y"},
}
# What needs each key; without all others it works.
NEEDS = {
    "later": {"later", "moved", "listed"},
    "later-seq": {"later"},
    "unique": {"unique"},
    "control": {"paused"},
}


async def outcomes(bench: Bench) -> dict[str, Any]:
    """What became of each use of what stands beside the stream."""
    client, stream = bench.client, bench.stream
    producer = StreamProducer(client, stream, group=GROUP)
    names = [*PUSHES, "paused", "cancelled", "listed", "moved"]
    taken_back = await producer.push("taken back")

    async def listed() -> list[str]:
        return [message.id async for message in producer.scheduled()]

    found = await asyncio.gather(
        *(producer.push(name, **terms) for name, terms in PUSHES.items()),
        client.pause(stream, "nobody"),
        client.cancel(stream, taken_back),
        listed(),
        return_exceptions=True,
    )
    found += await asyncio.gather(Mover(client, stream).move(), return_exceptions=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("name", BESIDE)
async def test_a_key_of_another_kind_stops_only_what_needs_it(real_bench: Bench, name: str) -> None:
    client, key = real_bench.client, beside(real_bench.stream, name)
    await client.create_group(real_bench.stream, GROUP)
    producer = StreamProducer(client, real_bench.stream, group=GROUP)
    if name != "later":
        await producer.push("due", delay_ms=1, unique="due")
    await asyncio.sleep(0.01)
    await client.link().call(key, "DEL", key)
    await client.link().call(key, "RPUSH", key, "written by others")

    found = await outcomes(real_bench)

    failed = {what for what, came in found.items() if isinstance(came, Exception)}
    assert failed == NEEDS.get(name, set())
    assert all(key in str(found[what]) for what in failed)
    entries = await client.command("XRANGE", real_bench.stream, "-", "+")
    in_the_stream = [fields[1] for _, fields in entries]
    wanted = {"now", "once", "unique"} - failed | ({"due"} if name != "later" else set())
    assert sorted(in_the_stream) == sorted(f'"{what}"'.encode() for what in wanted)

    await client.link().call(key, "DEL", key)
    mended = await outcomes(real_bench)
    assert not [came for came in mended.values() if isinstance(came, Exception)]


async def test_a_running_consumer_goes_on_and_says_what_is_wrong(
    server_bench: Bench, warnings_logged: pytest.LogCaptureFixture
) -> None:
    """What is scheduled is moved without its bell; of two periodic ones the other comes in time."""
    client, stream, handler = server_bench.client, server_bench.stream, RecordingHandler()
    for name in ("bell", "unique", "control"):
        key = beside(stream, name)
        await client.link().call(key, "SET", key, "written by others")
    producer = StreamProducer(client, stream)
    ticks = [Every("blocked", 0.1, "blocked", overlap=False), Every("beat", 0.1, "beat")]
    async with running(server_bench, server_bench.consumer(handler, block_ms=100, periodic=ticks)):
        await producer.push("soon", delay_ms=50)

        def seen() -> list[Any]:
            return [message.data for message in handler.messages]

        await server_bench.until(lambda: "soon" in seen() and seen().count("beat") > 3, "in time")
        assert "blocked" not in seen()
        for name in ("bell", "unique", "control"):
            assert sum(beside(stream, name) in said for said in warnings_logged.messages) == 1
            await client.link().call("", "DEL", beside(stream, name))
        await server_bench.until(lambda: "blocked" in seen(), "it is mended")
    assert seen().count("soon") == 1


HEADERS = '["a","b"' + ',"a","b"' * 5000 + "]"
ODD: list[tuple[str, Any]] = [
    ("1", "x"),
    ("-inf", ""),
    ("1", b"ab\xff" * 9),
    ("1.5", "9999999999999-000000000001:0:x"),
    ("9e12", "0000000000000-000000000001:0:x"),
    ("inf", "9999999999999-000000000002:0:x"),
    *(("1", f"0000000000001-000000000001:{len(h)}:{h}x") for h in ("[{}]", '["a"]', HEADERS)),
]


async def test_odd_members_are_moved_listed_and_purged_among_the_others(real_bench: Bench) -> None:
    """Wherever a page ends, and whatever their scores are."""
    client, stream = real_bench.client, real_bench.stream
    producer, key = StreamProducer(client, stream), beside(stream, "later")
    await producer.push_many([1, 2, 3], delay_ms=1)
    await producer.push_many(list(range(250)), delay_ms=HOUR_MS)
    for score, member in ODD:
        await client.link().call(key, "ZADD", key, score, member)
        assert len([message async for message in producer.scheduled()]) < 300
    assert len([message async for message in producer.scheduled()]) == 253 + len(ODD)

    mover = Mover(client, stream)
    while await mover.move():
        pass
    due = [member for score, member in ODD if score not in ("9e12", "inf")]
    assert await client.stream_len(stream) == 3 + len(due)


RIGHTS = {
    "zremrangebyrank": {"later"},
    "hget": {"unique"},
    "hset": {"unique"},
    "set": {"once"},
}


async def test_a_right_that_is_missing_doubles_nothing(server: Server, stream: str) -> None:
    """It is missed before the first write, or nothing is said to have failed."""
    admin = StreamClient.from_url(server.url)
    for right, lost in RIGHTS.items():
        await admin.link().call("", "FLUSHALL")
        rules = ("reset", "on", ">p", "~*", "&*", "+@all", f"-{right}")
        await admin.link().call("", "ACL", "SETUSER", "u", *rules)
        client = StreamClient.from_url(server.url.replace("unix://", "unix://u:p@"))
        await client.create_group(stream, GROUP)
        producer = StreamProducer(client, stream, group=GROUP)
        await producer.push("later", delay_ms=1)
        await asyncio.sleep(0.01)
        mover = Mover(client, stream)
        for _ in range(3):
            uses = (
                mover.move(),
                producer.push("once", dedup_id="x"),
                producer.push("unique", unique="y"),
            )
            for came in await asyncio.gather(*uses, return_exceptions=True):
                assert not isinstance(came, Exception) or isinstance(came, ResponseError)
        entries = await client.command("XRANGE", stream, "-", "+")
        in_the_stream = sorted(fields[1] for _, fields in entries)
        wanted = {"later", "once", "unique"} - lost
        assert in_the_stream == sorted(f'"{what}"'.encode() for what in wanted), right
        await client.close()
    await admin.link().call("", "ACL", "DELUSER", "u")
    await StreamClient.close_all()
