"""A server turns out to be no master any more while a connection to it is opened or asked."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio.connection import AbstractConnection

from redis_stream_queue.connection import link as links
from tests.library.kit import WAIT_S, Bench
from tests.support.held import Held


async def _client_id(bench: Bench) -> int:
    return int(await bench.client.link().call(bench.stream, "CLIENT", "ID"))


async def test_a_connection_that_was_abandoned_while_it_was_asked_is_not_used(
    real_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, before = real_bench.client.link(), await _client_id(real_bench)
    monkeypatch.setattr(links, "IDLE_S", 0.0)  # so it is asked whether it still is one
    pong = Held(monkeypatch, links, "exchange", lambda arguments, _: arguments[1] == [("PING",)])
    asked = asyncio.create_task(_client_id(real_bench))
    await asyncio.wait_for(pong.came.wait(), WAIT_S)
    link.abandon()
    pong.go.set()
    assert await asked != before


async def test_a_connection_that_was_abandoned_while_it_was_opened_is_used_no_more(
    real_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = real_bench.client.link()
    opened = Held(monkeypatch, AbstractConnection, "connect")
    asked = asyncio.create_task(_client_id(real_bench))
    await asyncio.wait_for(opened.came.wait(), WAIT_S)
    link.abandon()
    opened.go.set()
    first = await asked
    assert await _client_id(real_bench) != first
