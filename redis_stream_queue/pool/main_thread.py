"""The main thread of a worker: the event loop and a plain handler's calls take turns in it.

There, timer signals arrive at once, and libraries that insist on the main thread work. A short call
costs no change of threads, and a long one that handles many short messages lets the loop have a
turn between two of them. One that does not, for ``PATIENCE_S``, does not stop the loop either: a
second thread takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from .._clock import mono_ms
from .._log import log

PATIENCE_S = 0.025  # a call is taken for a long one after once or twice as much
TURN_STEPS = 4  # a turn: the task that a timer or a reply wakes comes to its next wait


def _new_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed (extra ``uvloop``), else asyncio's."""
    with contextlib.suppress(ImportError):
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop
    return asyncio.new_event_loop()


class MainThread:
    """Runs the loop, and between its turns the calls that the loop asks for, one at a time."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=_new_loop)
        self._loop = self._runner.get_loop()
        self._asked: tuple[Callable[[], None], asyncio.Future[None]] | None = None
        self._calls = 0  # how many have begun
        self._calling = False
        self._turn = threading.Lock()  # who holds it may run the loop
        self._stand_in: threading.Thread | None = None
        self._serving = True
        self._forked = False
        os.register_at_fork(after_in_child=self._note_fork)
        self._wanted = threading.Event()  # not set: the stand-in may sleep

    async def run(self, call: Callable[[], None]) -> None:
        """Run a call in the main thread and wait for it."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._asked = (call, done)
        self._loop.stop()
        await done

    def serve(self, main: Coroutine[Any, Any, None]) -> None:
        """Body of the main thread: run ``main`` in the loop until it ends."""
        with self._runner, self._turn:
            task = self._loop.create_task(main)
            task.add_done_callback(lambda _: self._loop.stop())
            try:
                while not task.done():
                    if self._asked is None:
                        self._loop.run_forever()
                    else:
                        asked, self._asked = self._asked, None
                        self._call(*asked)
                        del asked  # or a batch would live until the next one has been handled
            finally:
                self._serving = False
                self._wanted.set()
        task.result()

    def _call(self, call: Callable[[], None], done: asyncio.Future[None]) -> None:
        error: BaseException | None = None
        self._begin()
        try:
            call()
        except BaseException as caught:  # it belongs to whoever waits for the call
            error = caught
        self._end_child()
        self._end()
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def _note_fork(self) -> None:
        self._forked = True

    def _end_child(self) -> None:
        if self._forked:
            log.error("a handler forked, and its child returned: the child ends here")
            os._exit(1)  # or it would go on as a second worker on the same connections

    def between(self, now_ms: int) -> int:
        """Between two messages of a call: a turn for the loop. Times: mono_ms()."""
        self._end_child()
        if self._turn.acquire(blocking=False):
            self._step(TURN_STEPS)
            try:
                # The task that raised one of these keeps it; serve() sees it there.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
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
        if not self._wanted.is_set():
            self._wanted.set()
            if self._stand_in is None:
                self._stand_in = threading.Thread(target=self._watch, name="rsq-loop", daemon=True)
                self._stand_in.start()
        self._turn.release()

    def _end(self) -> None:
        self._calling = False
        if not self._turn.acquire(blocking=False):
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._turn.acquire()

    def _watch(self) -> None:
        """Body of the stand-in's thread. It looks now and then: to be told would cost more."""
        known = 0
        while self._serving:
            time.sleep(PATIENCE_S)
            if self._calls != known:
                known = self._calls
            elif self._calling:
                self._run_loop_meanwhile()
            else:
                self._wanted.clear()
                if self._calls == known and self._serving:  # else it may just have been set
                    self._wanted.wait()

    def _run_loop_meanwhile(self) -> None:
        if self._turn.acquire(blocking=False):
            try:
                # The task that raised one of these keeps it; the main thread sees it there.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    if self._calling:  # still
                        self._loop.run_forever()
            finally:
                self._turn.release()
