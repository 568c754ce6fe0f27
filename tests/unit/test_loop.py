"""Which event loop a worker runs in."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest

from redis_stream_queue.pool import loop


async def note_loop(seen: list[asyncio.AbstractEventLoop]) -> None:
    seen.append(asyncio.get_running_loop())


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.AbstractEventLoop] = []

    def new_event_loop() -> asyncio.AbstractEventLoop:
        made.append(asyncio.new_event_loop())
        return made[-1]

    uvloop = types.ModuleType("uvloop")
    uvloop.new_event_loop = new_event_loop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uvloop", uvloop)
    seen: list[asyncio.AbstractEventLoop] = []
    loop.run(note_loop(seen))
    assert seen == made
    assert made[0].is_closed()


def test_without_uvloop_the_standard_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # its import fails
    seen: list[asyncio.AbstractEventLoop] = []
    loop.run(note_loop(seen))
    assert type(seen[0]).__module__.startswith("asyncio.")
