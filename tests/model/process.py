"""Processes without processes: each is an event loop of its own that runs only when a rule says so.

Time is virtual for all of them (loop timers and the library's mono_ms alike) and moves only by
Clock.advance. An exchange with Redis may be made to fail, to arrive late, or to be the moment at
which the process stops (SIGSTOP) or dies (kill -9): a process that is not run again is just that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from unittest import mock

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from redis_stream_queue import _clock
from redis_stream_queue.connection import link as link_module
from redis_stream_queue.connection import registry, single
from redis_stream_queue.connection.exchange import OUTAGES
from redis_stream_queue.connection.scripts import BURY, Script
from redis_stream_queue.later import control, cron_scripts, postponed
from redis_stream_queue.later import scripts as later_scripts

from .facts import REWIND

# Scripts that ask the server for its time, as they are with the time that is virtual: the last of
# their arguments.
VIRTUAL = {
    script.sha: Script(
        "local virtual = table.remove(ARGV)\n"
        + script.source.replace(
            "redis.call('TIME')", "{math.floor(virtual / 1000), virtual % 1000 * 1000}"
        )
    )
    for module in (later_scripts, cron_scripts, control, postponed)
    for script in vars(module).values()
    if isinstance(script, Script) and "redis.call('TIME')" in script.source
}


def scripts() -> set[Script]:
    """All of the package. (A server that does not know one yet would cost one exchange more.)"""
    modules = [m for name, m in sys.modules.items() if name.startswith("redis_stream_queue")]
    return {s for module in modules for s in vars(module).values() if isinstance(s, Script)}


STUCK_S = 10.0  # real seconds that one step may take


class Fault(Enum):
    """What happens to one exchange; BEFORE and AFTER: before or after the server has done it."""

    REQUEST_LOST = "request lost"
    REPLY_LOST = "reply lost"
    HALF_LOST = "reply lost but its first part"
    LATE = "arrives late"
    STOP_BEFORE = "stopped before"
    STOP_AFTER = "stopped after"
    DEATH_BEFORE = "killed before"
    DEATH_AFTER = "killed after"
    BURY_REFUSED = "dead letter refused"


STOPS = (Fault.STOP_BEFORE, Fault.STOP_AFTER)
DEATHS = (Fault.DEATH_BEFORE, Fault.DEATH_AFTER)


@dataclass(frozen=True)
class At:
    """A fault and the number of the exchange it hits within a step."""

    fault: Fault
    exchange: int


class Clock:
    """The time of all processes, in virtual milliseconds; how far ahead the server's clock is."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.server_ahead_ms = 0

    def now_ms(self) -> int:
        return self.ms

    @property
    def server_ms(self) -> int:
        return self.ms + self.server_ahead_ms

    def virtual(self, commands: Sequence[Any]) -> list[Any]:
        """The same commands in virtual time. Their replies: the last one's, but for its first."""
        sent = [
            ("EVALSHA", VIRTUAL[command[1]].sha, *command[2:], self.server_ms)
            if command[0] == "EVALSHA" and command[1] in VIRTUAL
            else command
            for command in commands
        ]
        return [("MULTI",), REWIND, *sent, ("EXEC",)]


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process

    def time(self) -> float:
        return self.process.clock.ms / 1000


@dataclass(eq=False)
class Late:
    """A request that the server has not seen yet, and whose sender has given up."""

    process: Process
    commands: Sequence[Any]
    connection_id: int | None


@dataclass(eq=False)
class Process:
    """One event loop. ``run`` lets it go on until nothing more happens by itself.

    on_executed: called with each command that the server has done, and its reply.
    stopped_at_ms, min_gap...: since when it stands still; None = it runs.
    """

    name: str
    clock: Clock
    late: list[Late]
    on_executed: Callable[[Process, Any, Any], None] = lambda *_: None
    dead: bool = False
    stopped_at_ms: int | None = None
    cut: bool = False
    faults: int = 0
    busy: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = _Loop(self)
        self._armed: At | None = None
        self._exchanges = 0
        self._thaw: asyncio.Future[None] | None = None
        self._stirred = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.turn = asyncio.Lock()  # two connections would be served in whatever order

    @property
    def stopped(self) -> bool:
        return self.stopped_at_ms is not None

    @property
    def runs(self) -> bool:
        return not self.dead and not self.stopped

    # -- running ---------------------------------------------------------------------------------

    def run(
        self, start: Callable[[], Awaitable[Any]] | None = None, at: At | None = None
    ) -> asyncio.Task[Any] | None:
        """Start something, or just go on; returns its task (None: nothing was started)."""
        assert self.runs
        self._armed, self._exchanges = at, 0
        try:
            return self.loop.run_until_complete(self._drive(start))
        finally:
            self._armed = None

    def resume(self, at: At | None = None) -> None:
        """SIGCONT."""
        assert self.stopped
        self.stopped_at_ms = None
        if self._thaw is not None and not self._thaw.done():
            self._thaw.set_result(None)
        self.run(None, at)

    def stop(self) -> None:
        """SIGSTOP between two steps."""
        self.stopped_at_ms = self.clock.ms

    async def _drive(self, start: Callable[[], Awaitable[Any]] | None) -> asyncio.Task[Any] | None:
        task = None
        if start is not None:
            task = self.loop.create_task(self._catching(start))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await self._until_quiet()
        return task

    async def _catching(self, start: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await start()
        except OUTAGES as error:
            return error
        except asyncio.CancelledError:
            return None
        except BaseException as error:
            self.errors.append(error)
            return error

    async def _until_quiet(self) -> None:
        loop: Any = self.loop
        until = time.monotonic() + STUCK_S
        while self.runs:
            self._stirred.clear()
            await asyncio.sleep(0)
            if time.monotonic() > until:
                raise AssertionError(f"{self.name} does not come to rest")
            if loop._ready or (loop._scheduled and loop._scheduled[0]._when <= loop.time()):
                continue
            if not self.busy:
                return
            await self._stirred.wait()

    # -- exchanges -------------------------------------------------------------------------------

    def enter(self) -> None:
        self.busy += 1

    def leave(self) -> None:
        self.busy -= 1
        self._stirred.set()

    async def exchange(
        self,
        connection: Any,
        commands: Sequence[Any],
        timeout_s: float | None,
        on_reply: Callable[[int, Any], None] | None = None,
        last_s: float | None = None,
        on_late: Callable[[], None] | None = None,
    ) -> list[Any]:
        """What stands in for link.exchange()."""

        async def really(note: Callable[[int, Any], None] | None = on_reply) -> list[Any]:
            sent = self.clock.virtual(commands)
            *_, (_, *replies) = await _exchange(connection, sent, timeout_s, None, last_s, on_late)
            for index, reply in enumerate(replies[:-1] if note else ()):
                note(index, reply)
            for command, reply in zip(commands, replies, strict=True):
                self.on_executed(self, command, reply)
            if ("TIME",) in commands:
                server_ms = self.clock.server_ms
                replies[commands.index(("TIME",))] = [server_ms // 1000, server_ms % 1000 * 1000]
            return replies

        def break_off(error: Exception) -> Exception:
            self.faults += 1
            return error

        if commands[0] == ("CLIENT", "ID"):
            replies = await really()
            connection.model_id = replies[0]
            return replies
        if self.dead or self.cut:
            await connection.disconnect(nowait=True)
            raise break_off(RedisConnectionError("cut"))
        if commands[0][:2] == ("CLIENT", "KILL"):
            self.late[:] = [k for k in self.late if k.connection_id != commands[0][-1]]
        fault = self._next_fault(commands)
        if fault is None:
            return await really()
        if fault is Fault.BURY_REFUSED:
            self.faults += 1
            return [ResponseError("OOM command not allowed when used memory > 'maxmemory'.")]
        if fault in STOPS or fault in DEATHS:
            replies = await really(None) if fault in (Fault.STOP_AFTER, Fault.DEATH_AFTER) else None
            await self._stand_still(fault, connection, timeout_s)
            if replies is None:
                return await really()
            for index, reply in enumerate(replies[:-1]):
                if on_reply is not None:
                    on_reply(index, reply)
            return replies
        if fault is Fault.LATE:
            self.late.append(Late(self, commands, getattr(connection, "model_id", None)))
        elif fault is not Fault.REQUEST_LOST:
            replies = await really(None)
            if fault is Fault.HALF_LOST and on_reply is not None and len(replies) > 1:
                on_reply(0, replies[0])
        await connection.disconnect(nowait=True)
        raise break_off(RedisConnectionError(fault.value))

    def _next_fault(self, commands: Sequence[Any]) -> Fault | None:
        armed = self._armed
        if armed is None:
            return None
        if armed.fault is Fault.BURY_REFUSED:
            hit = any(BURY.sha in command or BURY.source in command for command in commands)
        else:
            hit = self._exchanges == armed.exchange
        self._exchanges += 1
        if hit:
            self._armed = None
            return armed.fault
        return None

    async def _stand_still(self, fault: Fault, connection: Any, timeout_s: float | None) -> None:
        if fault in DEATHS:
            self.dead = True
        else:
            self.stopped_at_ms = self.clock.ms
        since_ms = self.clock.ms
        self._thaw = self.loop.create_future()
        self.leave()
        try:
            await self._thaw
        finally:
            self.enter()
        if timeout_s is not None and self.clock.ms - since_ms > timeout_s * 1000:
            await connection.disconnect(nowait=True)
            self.faults += 1
            raise RedisTimeoutError("no answer in time")

    # -- the end ---------------------------------------------------------------------------------

    def dispose(self) -> None:
        """End the example: nothing more reaches Redis, no socket stays open."""
        self.dead = True
        self.loop.run_until_complete(self._end())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _end(self) -> None:
        links = registry.links_of_running_loop()
        channels = [channel for link in links for channel in list(link.dedicated_connections)]
        connections = [c for link in links for c in link.connections()]
        connections += [c.connection for c in channels if c.connection is not None]
        while tasks := [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=None)
        for link in links:
            await registry.discard(link)
        for connection in connections:
            await connection.disconnect(nowait=True)
        for _ in range(3):
            await asyncio.sleep(0)


_exchange = link_module.exchange


def current() -> Process:
    """The process whose loop is running."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    return loop.process


async def _patched_exchange(*args: Any, **kwargs: Any) -> list[Any]:
    return await current().exchange(*args, **kwargs)


def _counted(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def counted(*args: Any, **kwargs: Any) -> Any:
        process = current()
        process.enter()
        try:
            async with process.turn:
                return await run(*args, **kwargs)
        finally:
            process.leave()

    return counted


@contextlib.contextmanager
def patched_library(clock: Clock) -> Iterator[None]:
    """Let the library live in virtual time and talk through Process.exchange()."""
    with contextlib.ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("redis_stream_queue") and getattr(module, "mono_ms", None):
                stack.enter_context(mock.patch.object(module, "mono_ms", clock.now_ms))
        for module in (single, link_module):
            stack.enter_context(mock.patch.object(module, "exchange", _patched_exchange))
        for kind in (single.SingleLink, link_module.DedicatedConnection):
            counted = _counted(kind.run)
            stack.enter_context(mock.patch.object(kind, "run", counted))
        yield


assert _clock
