"""The main thread of a worker: the event loop and a plain handler's calls take turns in it.

In the main thread timer signals arrive at once, and libraries work that need it. A short call needs
no change of threads. A call that handles many short messages lets the loop have a turn between two
of them. If a call does not do that for LONG_CALL_S, a second thread, the stand-in, runs the loop
until the call ends.

That thread, its locks and the selector are taken from the interpreter before an app can patch them
(gevent does): a greenlet in place of the thread would run the loop in the middle of a handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import os
import selectors
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Coroutine
from selectors import DefaultSelector
from time import sleep
from typing import Any

from ..._clock import mono_ms
from ..._log import logger
from ...delivery.invocation import end_forked_child, forks

log = logger(__name__)

LONG_CALL_S = 0.025  # after this time, or up to twice as much, a call counts as long
BROKEN_LOOP = {errno.EBADF, errno.EINVAL}  # errors of a selector that the app has closed
TURN_STEPS = 4  # steps of the loop in a turn: so many a task needs from its waking to its next wait


def _new_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed (extra ``uvloop``), else asyncio's."""
    with contextlib.suppress(ImportError):
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop
    if selectors.DefaultSelector is not DefaultSelector:  # gevent's serves one thread only
        return asyncio.SelectorEventLoop(DefaultSelector())
    return asyncio.new_event_loop()


class MainThread:
    """Runs the loop, and between its turns the calls that tasks ask for, one at a time."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=_new_loop)
        self._loop = self._runner.get_loop()
        self._asked: tuple[Callable[[], None], asyncio.Future[None]] | None = None
        self._calls = 0  # how many have begun
        self._calling = False
        self._turn = allocate_lock()  # the thread that holds it may run the loop
        self._has_stand_in = False
        self._said = False
        self._serving = True
        self._forks = forks()
        os.register_at_fork(after_in_child=self._stop_in_child)
        self._wanted = False  # False = the stand-in may sleep until the bell is released
        self._bell = allocate_lock()
        self._bell.acquire()

    def _stop_in_child(self) -> None:
        if not self._serving:
            return
        self._loop.stop()  # after this turn, and what else waits for it is the parent's
        if hasattr(self._loop, "_ready"):
            for handle in self._loop._ready:
                handle.cancel()
        else:  # uvloop shows none: their tasks have ended, as far as this process knows
            self._loop.set_exception_handler(lambda *_: None)  # a step of such a task is an error
            for task in asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}:
                asyncio.Future.set_result(task, None)  # a task's own refuses it

    def run(self, call: Callable[[], None]) -> asyncio.Future[None]:
        """Run a call in the main thread as soon as the loop's turn ends; one at a time.

        The future has the error that the call raises.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        self._asked = (call, done)
        self._loop.stop()
        return done

    def first(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end before serve(). Raises what it raises."""
        self._loop.run_until_complete(coroutine)

    def serve(self, main: Coroutine[Any, Any, None]) -> None:
        """Run ``main`` in the loop until it ends; this is all that the main thread does."""
        with contextlib.closing(self), self._turn:
            task = self._loop.create_task(main)
            task.add_done_callback(lambda _: self._loop.stop())
            try:
                while not task.done():
                    if self._asked is None:
                        self._run_loop()
                        end_forked_child(self._forks)  # a task of the app may have forked
                    else:
                        asked, self._asked = self._asked, None
                        self._call(*asked)
                        del asked  # else a batch would stay in memory until the next one is done
            finally:
                self._serving = False
                self._wake_stand_in()
        task.result()

    def close(self) -> None:
        """Close the loop."""
        # RuntimeError: no thread can be started that joins the loop's; OSError: the app closed it
        with contextlib.suppress(RuntimeError, OSError):
            self._runner.close()

    def _run_loop(self) -> None:
        """Run a turn of the loop; an error that the app's tasks raise out of the loop is logged."""
        try:
            self._loop.run_forever()
        except BaseException as error:  # also a SystemExit of the app's: the worker goes on
            end_forked_child(self._forks, error)
            if isinstance(error, OSError) and error.errno in BROKEN_LOOP:
                log.critical(
                    "the app closed descriptors that are not its own, the event loop's among them "
                    "(%s): this worker ends and is replaced",
                    error,
                )
                os._exit(1)  # without its loop the worker can do nothing
            log.exception("a task or a callback of the app's has raised this in the event loop")

    def _call(self, call: Callable[[], None], done: asyncio.Future[None]) -> None:
        error: BaseException | None = None
        self._begin()
        try:
            call()
        except BaseException as caught:  # the future of the call gets it
            error = caught
        end_forked_child(self._forks, error)
        self._end()
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def between(self, now_ms: int) -> int:
        """Give the loop a turn between two messages of a call; takes and returns mono_ms()."""
        end_forked_child(self._forks)
        if self._turn.acquire(blocking=False):
            self._step(TURN_STEPS)
            try:
                self._run_loop()
            finally:
                self._calls += 1
                self._turn.release()
            return mono_ms()
        self._loop.call_soon_threadsafe(self._loop.stop)  # the stand-in gives it back
        return now_ms

    def _step(self, steps: int) -> None:
        if steps:
            self._loop.call_soon(self._step, steps - 1)
        else:
            self._loop.stop()

    def _begin(self) -> None:
        self._calls += 1
        self._calling = True
        if not self._wanted:
            self._wake_stand_in()
            if not self._has_stand_in:
                self._start_stand_in()
        self._turn.release()

    def _end(self) -> None:
        self._calling = False
        if not self._turn.acquire(blocking=False):
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._turn.acquire()

    def _start_stand_in(self) -> None:
        try:
            start_new_thread(self._watch, ())
            self._has_stand_in = True
        except (RuntimeError, MemoryError) as error:  # the next call tries again
            self._wanted = False
            if not self._said:
                self._said = True
                log.warning(
                    "no thread can be started (%s): while a long call runs, this worker renews no "
                    "leases and hears nothing",
                    error,
                )

    def _wake_stand_in(self) -> None:
        self._wanted = True
        if self._bell.locked():
            self._bell.release()

    def _watch(self) -> None:
        """All that the stand-in's thread does: look every LONG_CALL_S whether a call is long.

        To be told of each call would cost more.
        """
        known = 0
        while self._serving:
            sleep(LONG_CALL_S)
            if self._calls != known:
                known = self._calls
            elif self._calling:
                self._run_loop_meanwhile()
            else:
                self._bell.acquire(blocking=False)  # from here on _wake_stand_in() releases it
                self._wanted = False
                if self._calls == known and self._serving:  # no call began before _wanted was set
                    self._bell.acquire()

    def _run_loop_meanwhile(self) -> None:
        if self._turn.acquire(blocking=False):
            try:
                if self._calling:  # it may have ended meanwhile
                    self._run_loop()
            finally:
                self._turn.release()
