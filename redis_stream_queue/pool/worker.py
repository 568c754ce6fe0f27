"""The child's side: load the app, then read -> handle -> acknowledge until told to stop.

A plain handler runs in the process's main thread and the event loop in a second one; an async
handler runs in the loop, in the main thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import io
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .._clock import mono_ms
from .._link import OUTAGES
from ..backoff import Backoff
from ..client import StreamClient
from ..config import ConsumerConfig
from ..exceptions import RedisStreamError
from ..group import group_is_lost
from ..handlers import Declaration, Handler, PerMessage, declaration_of, is_async
from ..message import StreamMessage
from ..pending import Offer
from ..session import Session
from . import _linux, logs, loop
from .batch_size import batch_size
from .channel import MAX_MESSAGE, Channel
from .config import COMMAND_TIMEOUT_S
from .loading import load_handler, load_serializer
from .main_thread import MainThread
from .protocol import (
    MAX_ERROR,
    Declined,
    Drain,
    Fatal,
    Free,
    GroupLost,
    Loaded,
    LoadFailed,
    Message,
    Nothing,
    Ready,
    Retire,
    Start,
    Take,
    decode,
    encode,
)
from .row_hooks import RowHooks
from .rows import DUMP_SIGNAL, Field, Row, Rows
from .soft_limit import soft_limited

log = logging.getLogger("redis_stream_queue")

EXIT_OK = 0
EXIT_LOAD_FAILED = 3
BLOCK_MS = 800  # with the margin of a read: a dead connection is noticed within two seconds
FREE_WAIT_S = 0.1
LEAVE_S = 5.0  # how long a leaving worker tries to settle through an outage
RETIRE_SHARE = 0.1  # of its messages that a life may have left when it asks for a successor
GROUP_PAUSE_S = 0.05
NEW_ONES_SHARE = 6  # times as long as a take-over took


def worker_main(sock: socket.socket, rows: Rows, slot: int, spec: dict[str, Any]) -> int:
    """One worker life, from just after the fork to the exit code."""
    _linux.set_process_name(f"rsq-worker-{slot}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the master decides
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    logs.set_up(spec["log_level"], spec["log_format"], f"slot={slot}")
    for stream in (sys.stdout, sys.stderr):  # whole lines, and each at once
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, write_through=False)
    loading = spec["target"]
    try:
        handler = load_handler(loading)
        loading = spec["serializer"] or ""
        serializer = load_serializer(loading) if loading else None
    except RedisStreamError as error:
        _converse(sock, LoadFailed(loading, str(error)[-MAX_ERROR:]), wait=False)
        return EXIT_LOAD_FAILED
    declared = declaration_of(handler)
    start = _converse(sock, _loaded(handler, declared))
    if not isinstance(start, Start):
        return EXIT_OK  # drained before it began, or the master is gone
    if start.settings["soft_time_limit_s"] is not None:
        handler = soft_limited(handler, start.settings["soft_time_limit_s"])
    main_thread = MainThread()
    worker = Worker(sock, rows, spec["row"], start.settings, handler, main_thread.run)
    if serializer is not None:
        worker.session.serializer = worker.session.burial.serializer = serializer
    elif declared is not None and declared.serializer is not None:
        worker.session.serializer = worker.session.burial.serializer = declared.serializer
    if declared is not None:
        worker.session.burial.dlq_handler = declared.dlq_handler
    _answer_stack_dumps(rows.row(spec["row"]))
    signal.signal(signal.SIGTERM, lambda *_: worker.drain_from_signal())
    if is_async(handler):
        loop.run(worker.run())
    else:
        threading.Thread(target=main_thread.around, args=(worker.run,), name="rsq-loop").start()
        main_thread.serve()
    atexit._run_exitfuncs()
    return EXIT_OK


def _converse(sock: socket.socket, message: Message, *, wait: bool = True) -> Message | None:
    """Tell the master something before the loop runs; returns its answer, None if it is gone."""
    try:
        sock.send(encode(message))
        raw = sock.recv(MAX_MESSAGE) if wait else b""
    except OSError:
        return None
    return decode(raw) if raw else None


def _answer_stack_dumps(row: Row) -> None:
    """Let faulthandler write all stacks to a file in memory when the master asks for it."""
    fd = os.memfd_create("rsq-stack")
    faulthandler.register(DUMP_SIGNAL, file=fd, all_threads=False)  # the handler's thread
    row[Field.DUMP_FD] = fd


def _loaded(handler: Handler, declared: Declaration | None) -> Loaded:
    return Loaded(
        pid=os.getpid(),
        stream=declared.stream if declared else None,
        settings=declared.settings if declared else {},
        serializer=bool(declared and declared.serializer),
        dlq_handler=bool(declared and declared.dlq_handler),
        one_at_a_time=isinstance(handler, PerMessage) and handler.concurrency == 1,
    )


class Worker:
    """The loop's side of a worker."""

    def __init__(
        self,
        sock: socket.socket,
        rows: Rows,
        row_number: int,
        settings: dict[str, Any],
        handler: Handler,
        run_plain: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._sock = sock
        self._rows = rows
        self._row = rows.row(row_number)
        fixed = settings["batch_size"]
        concurrency = handler.concurrency if isinstance(handler, PerMessage) else 1
        self._batch = batch_size(fixed, concurrency)
        self._hooks = RowHooks(
            self._row, self._send, gives_back=fixed is None, side_by_side=concurrency > 1
        )
        self._client = StreamClient.from_url(
            settings["url"], prefix=settings["prefix"], socket_timeout=COMMAND_TIMEOUT_S
        )
        self.session = Session(
            self._client,
            settings["stream"],
            ConsumerConfig(**settings["config"]),
            handler,
            hooks=self._hooks,
            run_plain=run_plain,
        )
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._takes: list[Take] = []
        self._taken = 0
        self._answered = asyncio.Event()
        self._draining = False
        self._handling = False
        self._most_messages: int | None = settings["most_messages"]
        self._asked_to_retire = False
        self._new_ones_until_s = 0.0

    def _send(self, message: Message) -> None:
        if self._channel is not None:
            self._channel.send(message)

    # -- orders --------------------------------------------------------------------------------

    def drain_from_signal(self) -> None:
        """SIGTERM to the worker itself: finish what runs and leave (the master replaces it)."""
        self._draining = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._draining = True
        self._answered.set()
        self.session.stop_starting()
        self.session.interrupt()

    def _ordered(self, message: Message) -> None:
        if isinstance(message, Take):
            self._taken += 1
            if self._handling or self._draining:
                self._send(Declined([offer[0] for offer in message.offers]))
            else:
                self._takes.append(message)
                self._answered.set()
                self.session.interrupt()
        elif isinstance(message, Nothing):
            self._answered.set()
        elif isinstance(message, Drain):
            self._drain()

    # -- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until drained, or until the master is gone."""
        self._loop = asyncio.get_running_loop()
        self._answered = asyncio.Event()
        self._channel = Channel(self._sock, self._ordered, self._drain)
        backoff = Backoff()
        self._row[Field.READ_AT] = mono_ms()
        self._send(Ready())
        while not self._draining:
            try:
                if await self._turn():
                    backoff.reset()
            except RedisStreamError as error:
                self._send(Fatal(str(error)))
                break
            except Exception as error:  # Redis, the network, a bug: the loop must go on
                await self._survive(error, backoff)
        await self._leave()

    async def _turn(self) -> bool:
        """One step; True if Redis has been read."""
        if self._takes:
            await self._carry_out(self._takes.pop(0))
            return False
        block_ms = BLOCK_MS
        if self._rows.offers_waiting:
            if not self._is_turn_of_offers():
                block_ms = 0
            elif await self._ask_for_offers():
                return False
        room = self._room()
        if room <= 0:
            await self._until_told()
            return False
        messages = await self.session.read(min(self._batch.size, room), block_ms)
        self._row[Field.READ_AT] = mono_ms()
        if messages:
            await self._handle(messages)
        else:
            self._new_ones_until_s = 0.0
        return True

    def _is_turn_of_offers(self) -> bool:
        """Taking over costs Redis much more than reading: new messages keep their share."""
        return time.monotonic() >= self._new_ones_until_s

    def _room(self) -> int:
        """How many more messages this life may handle; asks to be replaced a little before."""
        if self._most_messages is None:
            return self._batch.size
        room = self._most_messages - self.session.meter.read.total
        if room <= self._most_messages * RETIRE_SHARE and not self._asked_to_retire:
            self._asked_to_retire = True
            self._send(Retire(f"{self._most_messages} messages"))
        return room

    async def _until_told(self) -> None:
        """This life is used up: acknowledge what is done, and wait for the successor."""
        await self.session.flush_acks()
        await self.session.settle()
        self._row[Field.READ_AT] = mono_ms()
        self._answered.clear()
        if not self._takes and not self._draining:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BLOCK_MS / 1000):
                    await self._answered.wait()

    async def _ask_for_offers(self) -> bool:
        """Between two batches, while offers wait: ask the master; True if it sent some."""
        await self.session.flush_acks()  # no read follows that would carry them
        self._answered.clear()
        self._send(Free(self._taken))
        try:
            async with asyncio.timeout(FREE_WAIT_S):
                await self._answered.wait()
        except TimeoutError:
            return False
        return bool(self._takes)

    async def _carry_out(self, take: Take) -> None:
        await self.session.flush_acks()
        offers = [Offer(*fields) for fields in take.offers]
        if take.bury is not None:
            await self.session.bury(offers, take.bury, take.error)
        else:
            began_s = time.monotonic()
            messages = await self.session.take(offers)
            took_s = time.monotonic() - began_s
            await self._handle(messages)
            self._new_ones_until_s = time.monotonic() + NEW_ONES_SHARE * took_s

    async def _handle(self, messages: list[StreamMessage]) -> None:
        if not messages:
            return
        if self._draining:
            self.session.release(messages)
            return
        started = mono_ms()
        self._handling = True
        try:
            await self.session.handle(messages)
        finally:
            self._handling = False
            self._batch.observe(len(messages), mono_ms() - started)
            self._row[Field.BATCH] = self._batch.size

    async def _survive(self, error: Exception, backoff: Backoff) -> None:
        pause_s = backoff.next_s()
        if group_is_lost(error):
            self._send(GroupLost())
            pause_s = GROUP_PAUSE_S
        if backoff.worth_a_line():
            known = isinstance(error, OUTAGES)
            log.error(
                "%s; trying again in %.1f s",
                str(error).rstrip(".") or type(error).__name__,
                pause_s,
                exc_info=None if known else error,
            )
        self._answered.clear()
        if not self._draining:
            try:
                async with asyncio.timeout(pause_s):
                    await self._answered.wait()
            except TimeoutError:
                return

    async def _try_to_leave(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.session.leave()
                return
            except OUTAGES as error:
                log.debug("cannot leave yet: %s", error)
                await asyncio.sleep(backoff.next_s())

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._try_to_leave()
        except TimeoutError:
            log.warning("could not give everything back, others take it over later")
            await self.session.close()
        await self._client.close()
        if self._channel is not None:
            self._channel.close()
