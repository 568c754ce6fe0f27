"""Nothing of ours is too large for a script, and none of ours holds up the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import ResponseError

from redis_stream_queue import (
    BacklogFull,
    ConsumerGroup,
    DeadLetterQueue,
    Reject,
    StreamMessage,
    StreamProducer,
    per_message,
)
from redis_stream_queue.client import StreamClient
from tests.library.kit import GROUP, Bench
from tests.support.servers import Server

FIELDS = (3_400, 4_100, 20_000)  # a script passes about 4,000 of them on, less our own
MOST_MS = 50  # it is a few, but other processes run, too
CALL_BYTES = 2_000_000  # no call looks at more


@pytest.mark.parametrize("fields", FIELDS)
async def test_an_entry_of_thousands_of_fields_is_buried_and_requeued(
    real_bench: Bench, fields: int
) -> None:
    async def reject(_: StreamMessage) -> None:
        raise Reject("not for us")

    bench = real_bench
    entry = {f"f{number}": str(number) for number in range(fields)}
    await bench.add_raw({"data": "1", **entry})
    consumer = bench.consumer(per_message(reject), dlq_stream=bench.dlq)
    await bench.drain(consumer)
    [letter] = await bench.letters()
    assert {name: letter[name] for name in entry} == entry
    assert letter["reason"] == "rejected"
    assert await DeadLetterQueue(bench.client, bench.dlq).requeue() == 1
    assert await bench.letters() == []
    first, second = await bench.client.command("XRANGE", bench.stream, "-", "+")
    assert first[1] == second[1]


async def test_a_large_letter_is_moved_once_or_not_at_all(real_bench: Bench) -> None:
    """Also one that another program wrote, and one that is gone."""
    bench = real_bench
    await bench.add_raw({"data": "1", **{f"f{n}": "x" for n in range(5000)}}, bench.dlq)
    letters = DeadLetterQueue(bench.client, bench.dlq)
    [letter_id] = await bench.entry_ids(bench.dlq)
    assert await letters.requeue([letter_id], to=bench.stream) == 1
    assert await letters.requeue([letter_id], to=bench.stream) == 0
    assert len(await bench.entry_ids()) == 1


async def of_another_kind(bench: Bench, key: str) -> None:
    await bench.client.link().call(key, "SET", key, "oops")


async def without_more_ids(bench: Bench, key: str) -> None:
    await bench.client.link().call(key, "XADD", key, f"{2**64 - 1}-{2**64 - 1}", "data", "1")


REFUSED = pytest.mark.parametrize(
    ("refuse", "why"), [(of_another_kind, "WRONGTYPE"), (without_more_ids, "no more ids|exhausted")]
)


@REFUSED
async def test_a_large_letter_that_is_refused_stays(
    real_bench: Bench, refuse: Callable[[Bench, str], Awaitable[None]], why: str
) -> None:
    """A transaction goes on when one of its commands is refused."""
    bench = real_bench
    await bench.add_raw({"data": "1", **{f"f{n}": "x" for n in range(5000)}}, bench.dlq)
    await refuse(bench, "other")
    letters = DeadLetterQueue(bench.client, bench.dlq)
    with pytest.raises(ResponseError, match=why):
        await letters.requeue(to="other")
    assert await bench.client.stream_len(bench.dlq) == 1
    await bench.client.command("DEL", "other")
    assert await letters.requeue(to="other") == 1


@REFUSED
async def test_a_large_entry_that_cannot_be_buried_waits(
    real_bench: Bench, refuse: Callable[[Bench, str], Awaitable[None]], why: str
) -> None:
    bench = real_bench
    runs = 0

    async def reject(_: StreamMessage) -> None:
        nonlocal runs
        runs += 1
        raise Reject("not for us")

    entry_id = await bench.add_raw({"data": "1", **{f"f{n}": "x" for n in range(5000)}})
    await refuse(bench, bench.dlq)
    consumer = bench.consumer(per_message(reject), dlq_stream=bench.dlq, retry_delay_ms=1)
    await consumer.run_once()
    assert runs == 1
    assert list(await bench.pending()) == [entry_id]
    await bench.client.command("DEL", bench.dlq)
    await bench.drain(consumer)
    [letter] = await bench.letters()
    assert letter["original_id"] == entry_id
    assert runs == 1


async def test_leases_of_20000_messages_are_renewed(real_bench: Bench) -> None:
    """By the consumer, and by its master, which knows where they begin and end."""
    bench, count = real_bench, 20_000
    for _ in range(count // 5000):
        await bench.push(*range(5000))
    ids = await bench.deliver("somebody", count)
    pending = bench.consumer(lambda messages: [])._in_flight.pending
    assert len(ids) == count
    await bench.set_pending(ids[-1], "somebody", 60_000, 1)
    await pending.renew_range("somebody", ids[0], ids[-1])
    [last] = await pending.page(ids[-2], 1)
    assert last.idle_ms < 60_000
    await bench.set_pending(ids[-1], "somebody", 60_000, 1)
    renewed = await pending.renew("somebody", dict.fromkeys(ids, 1))
    assert not any(renewed)
    [last] = await pending.page(ids[-2], 1)
    assert last.idle_ms < 60_000


class TestServerIsNotHeldUp:
    """The slow log is the judge, and how many calls it took; the entries are large."""

    @pytest.fixture
    async def lagging(self, server: Server, server_bench: Bench) -> int:
        """A group that has to be counted: how many entries it has not read."""
        await server_bench.client.create_group(server_bench.stream, GROUP)
        payload = b"x" * 20_000
        ids = await server_bench.client.push_many(server_bench.stream, [payload] * 3000)
        await server_bench.client.command("XDEL", server_bench.stream, ids[-5])
        with server.client() as client:
            client.config_set("slowlog-log-slower-than", MOST_MS * 1000)
            client.slowlog_reset()
            client.config_resetstat()
        return len(ids) - 1

    def calls(self, server: Server) -> int:
        with server.client() as client:
            return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])

    def slowest(self, server: Server) -> list[object]:
        with server.client() as client:
            slow = [e for e in client.slowlog_get(10) if b"EVAL" in e["command"]]
        return [(e["duration"], e["command"][:60]) for e in slow]

    async def test_counting_a_backlog(
        self, server: Server, server_client: StreamClient, server_bench: Bench, lagging: int
    ) -> None:
        group = ConsumerGroup(server_client, server_bench.stream, GROUP)
        assert (await group.stats()).lag == lagging
        producer = StreamProducer(server_client, server_bench.stream, max_backlog=lagging)
        with pytest.raises(BacklogFull, match=f"{lagging} messages"):
            await producer.push(1)
        with pytest.raises(BacklogFull, match=f"{lagging} messages"):
            producer.push_sync(1)
        assert self.slowest(server) == []
        assert self.calls(server) >= 3 * lagging * 20_000 / CALL_BYTES

    async def test_purging_and_requeueing(self, server: Server, server_bench: Bench) -> None:
        client, dlq = server_bench.client, server_bench.dlq
        await client.push_many(dlq, [b"x" * 20_000] * 2000)
        await client.push_many(dlq, [b"x"] * 20_000)
        with server.client() as admin:
            admin.config_set("slowlog-log-slower-than", MOST_MS * 1000)
            admin.slowlog_reset()
            admin.config_resetstat()
        letters = DeadLetterQueue(client, dlq)
        first = await server_bench.entry_ids(dlq)
        assert await letters.requeue(first[:50], to=server_bench.stream) == 50
        assert await letters.purge() == 21_950
        assert await letters.count() == 0
        assert self.slowest(server) == []
        assert self.calls(server) >= 2000 * 20_000 / CALL_BYTES
