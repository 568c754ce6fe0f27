"""StreamClient: the low-level commands on every server, and their time-outs."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from redis.exceptions import ResponseError

from redis_stream_queue import StreamClient
from redis_stream_queue.connection.exchange import OUTAGES
from tests.library.kit import GROUP, WAIT_S, Bench, CountingProxy
from tests.support.faultproxy import FaultProxy

SECRET = "p4ss:w@rd/?#%"


class TestCommands:
    """Each method, on fakeredis and on each real server."""

    async def test_push_returns_the_id(self, client: StreamClient, stream: str) -> None:
        entry_id = await client.push(stream, b"\x00\xff raw")
        [message] = await client.fetch_by_ids(stream, [entry_id])
        assert (message.id, message.data, message.delivery_count) == (entry_id, b"\x00\xff raw", 0)

    async def test_push_many_keeps_the_order(self, client: StreamClient, stream: str) -> None:
        ids = await client.push_many(stream, [b"%d" % n for n in range(1200)])
        fetched = await client.fetch_by_ids(stream, ids)
        assert [m.data for m in fetched] == [b"%d" % n for n in range(1200)]
        assert await client.push_many(stream, []) == []

    async def test_max_len_is_a_plain_maxlen(self, real_client: StreamClient, stream: str) -> None:
        """Given here it removes the oldest, read or not. (fakeredis trims exactly.)"""
        await real_client.create_group(stream, GROUP)
        await real_client.push_many(stream, [b"x"] * 2000, max_len=100)
        assert 100 <= await real_client.stream_len(stream) <= 300
        for _ in range(300):
            await real_client.push(stream, b"x", max_len=100)
        assert 100 <= await real_client.stream_len(stream) <= 300

    async def test_create_group_twice(self, client: StreamClient, stream: str) -> None:
        """The second call changes nothing; the stream is made if needed."""
        for start_id in ("0", "$"):
            await client.create_group(stream, GROUP, start_id)
        await client.push(stream, b"1")
        assert len(await client.read(stream, GROUP, "c", 10, 0)) == 1

    async def test_create_group_at_an_id(self, client: StreamClient, stream: str) -> None:
        ids = await client.push_many(stream, [b"1", b"2", b"3"])
        await client.create_group(stream, GROUP, ids[1])
        assert [m.id for m in await client.read(stream, GROUP, "c", 10, 0)] == ids[2:]

    async def test_create_group_on_a_key_of_another_type(
        self, client: StreamClient, stream: str
    ) -> None:
        await client.command("SET", stream, "text")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await client.create_group(stream, GROUP)

    async def test_read_and_ack(self, client: StreamClient, stream: str) -> None:
        ids = await client.push_many(stream, [b"1", b"2", b"3"])
        await client.create_group(stream, GROUP)
        read = await client.read(stream, GROUP, "c", 2, 0)
        assert [(m.id, m.data, m.delivery_count) for m in read] == [
            (ids[0], b"1", 1),
            (ids[1], b"2", 1),
        ]
        assert await client.ack(stream, GROUP, *ids) == 2
        assert await client.ack(stream, GROUP) == 0
        assert await client.ack(stream, GROUP, ids[0]) == 0

    async def test_read_without_waiting(self, client: StreamClient, stream: str) -> None:
        """block_ms=0 does not wait (Redis itself would take BLOCK 0 as "for ever")."""
        await client.create_group(stream, GROUP)
        assert await asyncio.wait_for(client.read(stream, GROUP, "c", 10, 0), WAIT_S) == []

    async def test_read_with_waiting(self, real_client: StreamClient, stream: str) -> None:
        """(fakeredis does not wait.)"""
        await real_client.create_group(stream, GROUP)
        started = time.monotonic()
        assert await real_client.read(stream, GROUP, "c", 10, 50) == []
        assert time.monotonic() - started >= 0.04

    async def test_read_without_a_group(self, real_client: StreamClient, stream: str) -> None:
        """(fakeredis has other words.)"""
        with pytest.raises(ResponseError, match="NOGROUP"):
            await real_client.read(stream, GROUP, "c", 10, 0)

    async def test_other_fields_are_headers(self, client: StreamClient, stream: str) -> None:
        entry_id = await client.command("XADD", stream, "*", "a", "1", "data", "x", "b", b"\xff")
        [message] = await client.fetch_by_ids(stream, [entry_id.decode()])
        assert message.data == b"x"
        assert message.headers == {"a": "1", "b": "�"}

    async def test_autoclaim(self, client: StreamClient, stream: str) -> None:
        """Takes over what is idle, over all pages, with the true delivery count."""
        async with Bench(client, stream) as bench:
            ids = await bench.push(*range(25))
            await bench.deliver("gone", 25)
            for n, entry_id in enumerate(ids):
                await bench.set_pending(entry_id, "gone", 0 if n == 3 else 60_000, 1 + n % 3)
            claimed = await client.autoclaim(stream, GROUP, "me", 30_000, 4)
            assert [m.id for m in claimed] == ids[:3] + ids[4:]
            assert {m.id: m.delivery_count for m in claimed} == {
                entry_id: 2 + n % 3 for n, entry_id in enumerate(ids) if n != 3
            }
            assert [m.data for m in claimed[:3]] == [b"0", b"1", b"2"]
            pending = await bench.pending()
            assert {i: count for i, (name, count) in pending.items() if name == "me"} == {
                m.id: m.delivery_count for m in claimed
            }
            assert await client.autoclaim(stream, GROUP, "me", 30_000, 4) == []

    async def test_autoclaim_stops_after_max_passes(
        self, client: StreamClient, stream: str
    ) -> None:
        async with Bench(client, stream) as bench:
            await bench.push(*range(10))
            await bench.deliver("gone")
            claimed = await client.autoclaim(stream, GROUP, "me", 0, 3, max_passes=2)
            assert len(claimed) == 6

    async def test_autoclaim_acknowledges_deleted_entries(
        self, client: StreamClient, stream: str
    ) -> None:
        """They are not returned, do not end the walk and are not found again."""
        async with Bench(client, stream) as bench:
            ids = await bench.push(*range(12))
            await bench.deliver("gone")
            await client.command("XDEL", stream, *ids[:9])
            claimed = await client.autoclaim(stream, GROUP, "me", 0, 2)
            assert [m.id for m in claimed] == ids[9:]
            assert set(await bench.pending()) == set(ids[9:])

    async def test_pending_range(self, client: StreamClient, stream: str) -> None:
        async with Bench(client, stream) as bench:
            ids = await bench.push(1, 2, 3)
            await bench.deliver("a", 2)
            await bench.deliver("b", 1)
            entries = await client.pending_range(stream, GROUP, 10)
            assert [(e.id, e.consumer, e.delivery_count) for e in entries] == [
                (ids[0], "a", 1), (ids[1], "a", 1), (ids[2], "b", 1),
            ]  # fmt: skip
            assert all(0 <= e.idle_ms < 5000 for e in entries)
            assert [e.id for e in await client.pending_range(stream, GROUP, 2)] == ids[:2]
            assert [e.id for e in await client.pending_range(stream, GROUP, 9, "b")] == ids[2:]
            assert await client.pending_range(stream, GROUP, 9, "nobody") == []

    async def test_fetch_by_ids(self, client: StreamClient, stream: str) -> None:
        """In the order that was asked for; those that do not exist are left out."""
        ids = await client.push_many(stream, [b"1", b"2", b"3"])
        await client.command("XDEL", stream, ids[1])
        fetched = await client.fetch_by_ids(stream, [ids[2], ids[1], ids[0], "1-1"])
        assert [m.id for m in fetched] == [ids[2], ids[0]]
        assert await client.fetch_by_ids(stream, []) == []

    async def test_information(self, client: StreamClient, stream: str) -> None:
        """About a stream that is there, and about one that is not."""
        assert await client.stream_len(stream) == 0
        assert await client.group_info(stream) == []
        assert await client.consumer_info(stream, GROUP) == []
        await client.create_group(stream, GROUP)
        ids = await client.push_many(stream, [b"1", b"2"])
        await client.read(stream, GROUP, "c", 1, 0)
        assert await client.stream_len(stream) == 2
        [group] = await client.group_info(stream)
        assert (group["name"], group["pending"], group["consumers"]) == (GROUP, 1, 1)
        assert group["last-delivered-id"] == ids[0]
        [consumer] = await client.consumer_info(stream, GROUP)
        assert (consumer["name"], consumer["pending"]) == ("c", 1)
        assert consumer["idle"] >= 0

    async def test_prefix(self, client_url: str, stream: str) -> None:
        """Every stream name becomes ``<prefix>_<stream>``, a hash tag in it stays where it is."""
        shop = StreamClient.from_url(client_url, prefix="shop")
        plain = StreamClient.from_url(client_url)
        await shop.push(stream, b"1")
        await shop.push_many("{tag}_x", [b"1", b"2"])
        await shop.create_group(stream, GROUP)
        await shop.read(stream, GROUP, "c", 1, 0)
        assert await plain.stream_len(f"shop_{stream}") == 1
        assert await plain.stream_len("shop_{tag}_x") == 2
        assert await plain.stream_len(stream) == 0
        assert len(await plain.pending_range(f"shop_{stream}", GROUP, 9)) == 1
        await StreamClient.close_all()


class TestTime:
    async def test_block_may_be_longer_than_socket_timeout(
        self, redis_url: str, stream: str
    ) -> None:
        client = StreamClient.from_url(redis_url, socket_timeout=0.2)
        await client.create_group(stream, GROUP)
        started = time.monotonic()
        assert await client.read(stream, GROUP, "c", 1, 600) == []
        assert 0.55 < time.monotonic() - started < 3
        waiting = asyncio.create_task(client.read(stream, GROUP, "c", 1, 5000))
        await asyncio.sleep(0.4)  # longer than socket_timeout
        entry_id = await client.push(stream, b"1")
        assert [m.id for m in await asyncio.wait_for(waiting, 2)] == [entry_id]
        await client.close()

    async def test_fetch_by_ids_is_one_round_trip(self, proxy: CountingProxy, stream: str) -> None:
        """However many ids; and reading them is no request of its own each."""
        client = StreamClient.from_url(proxy.url)
        ids = await client.push_many(stream, [b"x"] * 500)
        for count in (1, 10, 500):
            proxy.requests.clear()
            assert len(await client.fetch_by_ids(stream, ids[:count])) == count
            assert b"".join(proxy.requests).count(b"XRANGE") == count
            assert len(proxy.requests) == 1 or len(b"".join(proxy.requests)) > 16_000

    async def test_server_that_accepts_and_never_answers(self) -> None:
        """A time-out within socket_connect_timeout + pool_timeout, for one and for many callers."""
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(50)
            port = silent.getsockname()[1]
            client = StreamClient(
                "127.0.0.1", port, username="me", password=SECRET,
                socket_connect_timeout=0.3, pool_timeout=0.2,
            )  # fmt: skip
            started = time.monotonic()
            results = await asyncio.gather(
                *(client.stream_len("s") for _ in range(5)), return_exceptions=True
            )
            assert time.monotonic() - started < 1.5
            assert all(isinstance(error, OUTAGES) for error in results)
            assert all(f"127.0.0.1:{port}" in str(e) and SECRET not in str(e) for e in results)
            await client.close()

    async def test_connection_that_stalls(self, proxy: CountingProxy, stream: str) -> None:
        """An answer that does not come within socket_timeout is an error, and the next command
        has a new connection and its own answer."""
        stalling = FaultProxy(proxy.target)
        async with stalling:
            client = StreamClient.from_url(stalling.url, socket_timeout=0.3)
            await client.push(stream, b"1")
            stalling.stall()
            with pytest.raises(OUTAGES, match="did not answer within"):
                await client.push_many(stream, [b"2", b"3"])
            stalling.resume()
            assert await client.stream_len(stream) >= 1
            await client.close()
