"""One worker life, from just after the fork to the exit code.

The event loop and the handler both run in the main thread; see ``main_thread``.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from multiprocessing.connection import Connection
from typing import Any

from ... import _exits
from ..._loading import LoadError, last_lines, load_handler, load_serializer
from ..._log import logger
from ..._names import prefixed
from ...delivery import current
from ...delivery.invocation import call_hook
from ...delivery.per_message import PerMessage
from ...delivery.rules import Rules
from ...exceptions import RedisStreamError
from ...handlers import Declaration, Handler, declaration_of, rules_of, with_middleware
from ...later.periodic import schedules_of
from ...middleware import Source
from ...serializers import JsonSerializer, Serializer, for_stream
from .. import _linux, logs, orphans, signals
from ..directory import enter_again
from ..metrics_pipe import Reporter
from ..pipe import MAX_MESSAGE
from ..protocol import (
    MAX_ERROR,
    Loaded,
    LoadFailed,
    Message,
    MorePeriodic,
    Periodic,
    Start,
    WorkerSpec,
    decode,
    encode,
)
from ..scoreboard import DUMP_SIGNAL, Field, Row, Scoreboard
from ..standard_streams import StandardStreams, make_unclosable
from ..task_times import MOST_TASKS
from ..totals import of_row
from .cancellation import Cancellation
from .loop import Worker
from .main_thread import MainThread
from .soft_limit import SoftLimit

MASTER_FIRST_S = 5.0  # a worker ends itself so much later than the master would have killed it
EXITS_S = 2.0  # how long exit handlers may run if the app cannot be loaded
USUAL_THRESHOLD = 700  # new containers that start a collection, up to Python 3.13
THRESHOLD = 2000  # the same later: about as many as the largest batch brings

log = logger(__name__)


def worker_main(
    sock: socket.socket,  # to the master
    metrics: Connection,  # the metrics pipe
    scoreboard: Scoreboard,
    slot: int,
    spec: WorkerSpec,
) -> int:
    """Run one worker life, from just after the fork; returns its exit code."""
    _linux.set_process_name(f"rsq-worker-{slot}")
    signals.keep_from_children()
    orphans.mark_children()
    streams = StandardStreams()
    make_unclosable()
    _log_as(f"slot={slot}", slot, spec)
    row = scoreboard.row(spec.row)
    _answer_stack_dumps(row)
    enter_again(spec.directory)
    loading = spec.target
    try:
        handler = load_handler(loading)
        loading = spec.serializer or ""
        serializer = load_serializer(loading) if loading else None
        declared, main_thread, loading = declaration_of(handler), MainThread(), spec.target
        main_thread.first(_begun(declared))
    except RedisStreamError as error:
        return _refuse(sock, loading, error)
    _keep_from_collector()
    _count_tasks(row, handler)
    start = _converse(sock, _loaded(handler, declared))
    if not isinstance(start, Start):
        main_thread.first(_ended(declared))
        _end_as_an_interpreter_does(spec.graceful_timeout_s)
        return _exits.OK  # drained before it began, or the master is gone
    try:
        own = serializer or declared.serializer
        schedules = _schedules(declared, own, start)
    except RedisStreamError as error:
        return _refuse(sock, spec.target, error)
    _tell_of(schedules, sock)
    _attach(handler, start)
    soft_limit = _soft_limit(start, handler)
    cancellation = Cancellation()
    worker = Worker(
        sock,
        scoreboard,
        spec.row,
        start,
        _as_called(handler, declared, start, soft_limit),
        main_thread,
        streams,
        declared,
        serializer=own,
        interrupt=cancellation.interrupt,
        limit_decoding=soft_limit.decoding,
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.drain_from_signal())
    reporter = Reporter(metrics, lambda: of_row(row))
    main_thread.serve(_run(worker, reporter, declared))
    _end_as_an_interpreter_does(spec.graceful_timeout_s)
    return _exits.OK


def _keep_from_collector() -> None:
    """Let the garbage collector look less often, which saves up to a quarter of the time.

    The app's objects stay for ever, and messages are freed without the collector. An app that sets
    a threshold of its own keeps it.
    """
    gc.freeze()
    youngest, *others = gc.get_threshold()
    if youngest == USUAL_THRESHOLD:
        gc.set_threshold(THRESHOLD, *others)


def _log_as(who: str, slot: int, spec: WorkerSpec) -> None:
    if spec.preload:
        logs.carry_on_as(who, slot)
    else:
        logs.set_up(spec.log_level, spec.log_format, who, slot)


def _refuse(sock: socket.socket, what: str, error: RedisStreamError) -> int:
    """Tell the master why the app cannot be loaded; returns the exit code.

    Exit handlers of the app run first: the master kills this process when it knows.
    """
    exits = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started
        exits.start()
        exits.join(EXITS_S)
    _converse(sock, LoadFailed(what, str(error)[-MAX_ERROR:]), wait=False)
    return _exits.LOAD_FAILED


def _attach(handler: Handler, start: Start) -> None:
    """Tell log and handler which stream and group the messages belong to."""
    logs.Record.stream = start.stream
    if isinstance(handler, PerMessage) and handler.attach is not None:
        handler.attach(start.url, start.prefix, start.stream, start.consumer.group)


def _soft_limit(start: Start, handler: Handler) -> SoftLimit:
    """The soft time limit, with its thread running if the pool or a task has one."""
    limit = SoftLimit(start.soft_time_limit_s, rules_of(handler))
    limits_s = [start.soft_time_limit_s, *(rules.soft_time_limit_s for rules in _rules(handler))]
    if any(limits_s):
        limit.watch(min(limit_s for limit_s in limits_s if limit_s is not None))
    return limit


def _as_called(handler: Any, declared: Declaration, start: Start, soft_limit: SoftLimit) -> Any:
    """The handler with the app's middleware around it, and with the limit around both."""
    source = Source(start.stream, start.consumer.group, start.consumer.max_deliveries)
    return soft_limit.limited(with_middleware(handler, declared.middleware, source))


def _rules(handler: Handler) -> Sequence[Rules]:
    return handler.rules if isinstance(handler, PerMessage) else ()


def _end_as_an_interpreter_does(timeout_s: float) -> None:
    """Wait for threads, then run exit handlers, as a Python program does at its end.

    timeout_s: after this time the master kills the process. If the master is gone, the process ends
    itself a little later.
    """
    signals.do_nothing(signal.SIGTERM)
    current.handled.set(None)
    with contextlib.suppress(RuntimeError):  # no thread can be started
        faulthandler.dump_traceback_later(timeout_s + MASTER_FIRST_S, exit=True, file=2)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


async def _run(worker: Worker, reporter: Reporter, declared: Declaration) -> None:
    reporter.start()
    try:
        await worker.run()
    finally:
        reporter.close()
        await _ended(declared)


async def _begun(declared: Declaration) -> None:
    """Be as nice as the app wants, and call its on_worker_start. Raises LoadError."""
    if declared.nice:
        try:
            os.nice(declared.nice)
        except OSError as error:  # only root may set a lower value
            log.warning("nice=%d of @stream_handler: %s", declared.nice, error.strerror)
    if declared.on_worker_start is None:
        return
    try:
        await call_hook(declared.on_worker_start)
    except BaseException as error:  # no message can be handled without it
        raise LoadError(last_lines("on_worker_start failed:", error)) from None


async def _ended(declared: Declaration) -> None:
    """Call the app's on_worker_stop; the worker ends whatever that raises."""
    if declared.on_worker_stop is None:
        return
    try:
        await call_hook(declared.on_worker_stop)
    except BaseException:  # a hook may raise anything
        log.exception("on_worker_stop failed")


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


def _count_tasks(row: Row, handler: Handler) -> None:
    """Write how many tasks have counters of their own."""
    if rules := _rules(handler):
        row[Field.TASKS] = min(len(rules) + 1, MOST_TASKS)


def _schedules(
    declared: Declaration, serializer: Serializer | None, start: Start
) -> list[list[Any]]:
    """The periodic messages that the handler declares, encoded. Raises ConfigError."""
    key = prefixed(start.prefix, start.stream)
    encode = for_stream(serializer or JsonSerializer(), key).encode
    return [list(schedule) for schedule in schedules_of(declared.periodic, encode)]


def _tell_of(schedules: list[list[Any]], sock: socket.socket) -> None:
    *others, last = _portions(schedules)
    for portion in others:
        _converse(sock, MorePeriodic(portion), wait=False)
    _converse(sock, Periodic(last), wait=False)


def _portions(schedules: list[list[Any]]) -> Iterator[list[list[Any]]]:
    """Parts of which each fits into one message to the master; at least one, perhaps empty."""
    portion: list[list[Any]] = []
    room = MAX_MESSAGE
    for one in schedules:
        size = len(encode(Periodic([one])))
        if portion and size > room:
            yield portion
            portion, room = [], MAX_MESSAGE
        portion.append(one)
        room -= size
    yield portion


def _first_names(rules: Sequence[Rules]) -> list[str]:
    """Names of the first tasks: as many as fit into one message to the master."""
    room = accumulate(len(one.name.encode()) + 8 for one in rules)
    return [one.name for one, size in zip(rules, room, strict=True) if size < MAX_MESSAGE // 2]


def _loaded(handler: Handler, declared: Declaration) -> Loaded:
    return Loaded(
        pid=os.getpid(),
        stream=declared.stream,
        settings=dict(declared.settings),
        dlq_handler=declared.dlq_handler is not None,
        one_at_a_time=isinstance(handler, PerMessage) and handler.concurrency == 1,
        memory_mb=round(_linux.memory_mb() or 0),
        tasks=_first_names(_rules(handler)),
        most_deliveries=max((rules.max_deliveries or 0 for rules in _rules(handler)), default=0),
        limited=any(rules.time_limit_s is not None for rules in _rules(handler)),
        workers=declared.workers,
    )
