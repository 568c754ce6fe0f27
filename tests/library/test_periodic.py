"""Periodic messages: each tick once over all hosts, whoever comes and goes."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from redis_stream_queue import Every, JsonSerializer, StreamClient, StreamProducer
from redis_stream_queue.delivery.pending import Parked, PendingList
from redis_stream_queue.later.keys import companions
from redis_stream_queue.later.periodic import Periodic, schedules_of
from redis_stream_queue.later.ticker import Ticker
from tests.library.kit import GROUP, Bench, RecordingHandler, running

HOUR_MS = 3_600_000


class Hosts:
    """Tickers that run, each as if on a host of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, *periodic: Periodic, skew_ms: float = 0) -> Ticker:
        """skew_ms: so far its clock is off from Redis', as far as it knows."""
        schedules = schedules_of(periodic, JsonSerializer().encode)
        ticker = Ticker(self.bench.client, self.bench.stream, GROUP, schedules)
        note = ticker._note_server_time
        ticker._note_server_time = lambda ms: note(int(ms + skew_ms))  # type: ignore[method-assign]
        self.tasks.append(asyncio.create_task(ticker.run()))
        return ticker

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.tasks.clear()

    async def ticks(self) -> list[dict[str, str]]:
        """Headers of what was pushed."""
        ids = await self.bench.entry_ids()
        return [m.headers for m in await self.bench.client.fetch_by_ids(self.bench.stream, ids)]


@pytest.fixture
def hosts(real_bench: Bench) -> Hosts:
    return Hosts(real_bench)


@pytest.fixture
def server_hosts(server_bench: Bench) -> Hosts:
    return Hosts(server_bench)


async def test_each_tick_is_pushed_once_by_many_hosts(hosts: Hosts) -> None:
    """Clocks that are off, one host after the other gone: no tick twice and none left out."""
    for skew_ms in (0, 0, 700, -700, 3_600_000):
        hosts.start(Every("beat", 0.1, {"kind": "beat"}), skew_ms=skew_ms)

    async def until_ticks(count: int) -> None:
        async def are_there() -> bool:
            return await hosts.bench.client.stream_len(hosts.bench.stream) >= count

        await hosts.bench.until(are_there, f"{count} ticks")

    for count, task in zip((3, 6), hosts.tasks[1:3], strict=True):
        await until_ticks(count)
        task.cancel()
    await until_ticks(11)
    await hosts.stop()

    found = await hosts.ticks()
    assert {headers["rsq:cron"] for headers in found} == {"beat"}
    times = [datetime.fromisoformat(headers["rsq:tick"]).timestamp() for headers in found]
    assert sorted(set(times)) == times
    stood_for = sum(int(headers.get("rsq:missed", "0")) for headers in found[1:])
    assert len(times) + stood_for == round((times[-1] - times[0]) / 0.1) + 1


async def test_a_consumer_handles_what_it_declares(real_bench: Bench) -> None:
    handler = RecordingHandler()
    consumer = real_bench.consumer(handler, block_ms=1000, periodic=[Every("beat", 0.1, {"n": 1})])
    async with running(real_bench, consumer):
        await real_bench.until(lambda: len(handler.messages) >= 3, "three ticks")
    assert all(m.data == {"n": 1} for m in handler.messages)
    assert max(handler.runs.values()) == 1


async def test_what_was_missed_is_caught_up_once(server_hosts: Hosts) -> None:
    """And a new name begins now: no run at its start."""
    hosts, bench = server_hosts, server_hosts.bench
    hosts.start(Every("hourly", 3600))
    cron = companions(bench.client.key(bench.stream)).cron

    async def declared() -> bool:
        return bool(await bench.client.link().call(cron, "HEXISTS", cron, "last:hourly"))

    await bench.until(declared, "it is declared")
    await hosts.stop()
    assert await hosts.ticks() == []
    last = int(await bench.client.link().call(cron, "HGET", cron, "last:hourly"))
    for field in ("last:hourly", "declared:hourly"):
        await bench.client.link().call(cron, "HSET", cron, field, last - 3 * 3_600_000)

    for _ in range(3):
        hosts.start(Every("hourly", 3600))

    async def caught_up() -> bool:
        return len(await hosts.ticks()) == 1

    await bench.until(caught_up, "it is caught up")
    await asyncio.sleep(0.1)
    await hosts.stop()
    [headers] = await hosts.ticks()
    assert headers["rsq:missed"] == "2"


async def test_a_tick_stands_only_for_those_that_nobody_else_has_pushed(
    server_hosts: Hosts,
) -> None:
    """A host that was late knows less than Redis when it counts what was missed."""
    hosts, bench = server_hosts, server_hosts.bench
    cron = companions(bench.client.key(bench.stream)).cron
    late = hosts.start(Every("hourly", 3600))
    await hosts.stop()
    await late._declare()
    [one] = late._declared
    newest = one.last_ms // HOUR_MS * HOUR_MS
    one.decided_up_to(newest - 3 * HOUR_MS)  # a process that was stopped for 3 hours
    await bench.client.link().call(cron, "HSET", cron, "last:hourly", newest - HOUR_MS)

    await late._tick(one)
    assert await hosts.ticks() == []
    await late._tick(one)
    [headers] = await hosts.ticks()
    assert "rsq:missed" not in headers


async def test_the_newest_declaration_counts(server_hosts: Hosts) -> None:
    """An old process is quiet from then on, also where it says again that it is there."""
    hosts, bench = server_hosts, server_hosts.bench
    old = hosts.start(Every("beat", 0.1, "old"))
    await bench.until(lambda: bench.client.stream_len(bench.stream), "the old one pushes")
    hosts.start(Every("beat", 0.2, "new"))

    async def newest() -> bool:
        entries = await bench.client.command("XREVRANGE", bench.stream, "+", "-", "COUNT", 1)
        return bool(entries[0][1][1] == b'"new"')

    await bench.until(newest, "the new one pushes")
    before = await bench.client.stream_len(bench.stream)
    old._look_at_s = 0.0
    await asyncio.sleep(0.5)
    await hosts.stop()
    entries = await bench.client.command("XRANGE", bench.stream, "-", "+")
    assert {fields[1] for _, fields in entries[before - 1 :]} == {b'"new"'}


async def test_without_overlap_a_tick_is_left_out_while_one_is_unfinished(
    server_hosts: Hosts,
) -> None:
    hosts, bench = server_hosts, server_hosts.bench
    hosts.start(Every("sync", 0.1, overlap=False))
    await bench.until(lambda: bench.client.stream_len(bench.stream), "the first one")
    [first] = await bench.deliver("c")
    await asyncio.sleep(0.3)
    assert await bench.entry_ids() == [first]
    # A retry that waits long is scheduled: it is unfinished there, too.
    pending = PendingList(bench.client, bench.stream, GROUP)
    assert await pending.postpone("c", [Parked(first, HOUR_MS)], {first: ""}) == {first}
    await asyncio.sleep(0.3)
    assert await bench.entry_ids() == []
    assert await bench.client.cancel(bench.stream, first) == "scheduled"

    async def second() -> bool:
        return await bench.client.stream_len(bench.stream) == 1

    await bench.until(second, "the next one")
    await hosts.stop()


async def test_flushall_brings_no_storm(server_hosts: Hosts) -> None:
    hosts, bench = server_hosts, server_hosts.bench
    hosts.start(Every("beat", 0.2))
    await bench.until(lambda: bench.client.stream_len(bench.stream), "it pushes")
    await bench.client.link().call("", "FLUSHALL")
    await bench.until(lambda: bench.client.stream_len(bench.stream), "it pushes again")
    await hosts.stop()
    assert len(await hosts.ticks()) <= 3


async def test_a_stream_that_is_used_by_hand_goes_on(server_client: StreamClient) -> None:
    """Without anything periodic nothing is kept beside a stream."""
    await StreamProducer(server_client, "plain").push(1)
    assert await server_client.link().call("", "KEYS", "*plain*") == [b"plain"]
