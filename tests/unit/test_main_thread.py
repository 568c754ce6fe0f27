"""The loop and a plain handler's calls take turns in the main thread."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from redis_stream_queue._clock import mono_ms
from redis_stream_queue.pool.worker.main_thread import MainThread
from tests.support.extras import UVLOOP
from tests.support.waiting import wait_until

DEADLINE_S = 10.0


def served(main: Callable[[MainThread], Coroutine[Any, Any, None]]) -> None:
    turns = MainThread()
    turns.serve(main(turns))


async def ticks(at_least: int) -> None:
    """The loop goes on, timers included."""
    for _ in range(at_least):
        await asyncio.sleep(0.001)


@pytest.fixture(params=["asyncio", "uvloop"])
def kind_of_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # its import fails
    else:
        monkeypatch.syspath_prepend(str(UVLOOP))
        assert importlib.import_module("uvloop"), "scripts/test installs it"


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
    served(lambda _: note_loop(seen))
    assert seen == made
    assert made[0].is_closed()


def test_without_uvloop_the_standard_loop_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # its import fails
    seen: list[asyncio.AbstractEventLoop] = []
    served(lambda _: note_loop(seen))
    assert type(seen[0]).__module__.startswith("asyncio.")


@pytest.mark.usefixtures("kind_of_loop")
def test_calls_run_in_the_main_thread_one_after_the_other() -> None:
    threads: list[threading.Thread] = []

    async def main(turns: MainThread) -> None:
        for _ in range(1000):
            await turns.run(lambda: threads.append(threading.current_thread()))

    served(main)
    assert threads == [threading.main_thread()] * 1000


@pytest.mark.usefixtures("kind_of_loop")
def test_the_loop_goes_on_while_a_call_takes_long_and_returns_to_the_main_thread() -> None:
    threads: list[threading.Thread] = []

    async def main(turns: MainThread) -> None:
        for _ in range(3):
            ended = threading.Event()

            def wait_for_the_loop(ended: threading.Event = ended) -> None:
                assert ended.wait(DEADLINE_S), "the loop stood still"

            call = asyncio.ensure_future(turns.run(wait_for_the_loop))
            await ticks(5)
            threads.append(threading.current_thread())
            ended.set()
            await call
            threads.append(threading.current_thread())
            await turns.run(lambda: None)  # a short one between

    served(main)
    assert threads[1::2] == [threading.main_thread()] * 3
    assert threading.main_thread() not in threads[::2]


@pytest.mark.usefixtures("kind_of_loop")
def test_a_call_can_ask_the_loop_for_something() -> None:
    answers: list[str] = []

    async def answer() -> str:
        await ticks(1)
        return "answer"

    async def main(turns: MainThread) -> None:
        loop = asyncio.get_running_loop()

        def ask() -> None:
            future = asyncio.run_coroutine_threadsafe(answer(), loop)
            answers.append(future.result(DEADLINE_S))

        await turns.run(ask)

    served(main)
    assert answers == ["answer"]


@pytest.mark.usefixtures("kind_of_loop")
@pytest.mark.parametrize("first", ["short", "long"])
def test_between_two_messages_the_loop_has_a_turn_in_the_main_thread(first: str) -> None:
    """Also when the second thread has it, because the first message took long."""
    threads: list[threading.Thread] = []

    async def main(turns: MainThread) -> None:
        loop = asyncio.get_running_loop()

        def note() -> None:
            threads.append(threading.current_thread())

        def call() -> None:
            loop.call_soon_threadsafe(note)
            if first == "long":
                wait_until(lambda: threads, DEADLINE_S, "the second thread took the loop")
            deadline_s = time.monotonic() + DEADLINE_S
            while threading.main_thread() not in threads:
                loop.call_soon_threadsafe(note)
                turns.between(mono_ms())
                assert time.monotonic() < deadline_s, "the main thread never got the loop"

        await turns.run(call)

    served(main)
    assert first == "short" or threads[0] is not threading.main_thread()


@pytest.mark.usefixtures("kind_of_loop")
def test_a_task_that_exits_in_such_a_turn_does_not_end_the_call() -> None:
    ended: list[bool] = []

    async def leave() -> None:
        raise SystemExit(1)

    async def main(turns: MainThread) -> None:
        leaving: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()

        def call() -> None:
            loop.call_soon_threadsafe(lambda: leaving.append(loop.create_task(leave())))
            wait_until(
                lambda: turns.between(mono_ms()) and leaving and leaving[0].done(),
                DEADLINE_S,
                "the task has ended",
            )
            ended.append(True)

        await turns.run(call)
        with pytest.raises(SystemExit):
            await leaving[0]

    served(main)
    assert ended == [True]


@pytest.mark.parametrize("in_a_turn", [False, True])
def test_what_a_callback_raises_out_of_the_loop_ends_neither_call_nor_loop(
    in_a_turn: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Any callback of the app's that exits, or a task of its own; also between two messages."""

    def leave() -> None:
        raise SystemExit(3)

    async def leave_later() -> None:
        raise KeyboardInterrupt

    async def main(turns: MainThread) -> None:
        loop = asyncio.get_running_loop()

        def call() -> None:
            while not loop.call_soon_threadsafe(leave).cancelled() and in_a_turn:
                turns.between(mono_ms())
                if "SystemExit" in caplog.text:
                    return

        await turns.run(call)
        loop.call_soon(leave)
        leaving = loop.create_task(leave_later())
        await ticks(3)
        assert isinstance(leaving.exception(), KeyboardInterrupt)

    served(main)
    assert "SystemExit: 3" in caplog.text
    assert "KeyboardInterrupt" in caplog.text


@pytest.mark.usefixtures("kind_of_loop")
def test_a_call_may_run_a_loop_of_its_own() -> None:
    async def main(turns: MainThread) -> None:
        await turns.run(lambda: asyncio.run(ticks(30)))
        await turns.run(lambda: asyncio.run(ticks(1)))

    served(main)


@pytest.mark.usefixtures("kind_of_loop")
@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_call_raises_is_raised_where_it_is_awaited(kind: type[BaseException]) -> None:
    caught: list[BaseException] = []

    def fail() -> None:
        raise kind("no")

    async def main(turns: MainThread) -> None:
        try:
            await turns.run(fail)
        except BaseException as error:
            caught.append(error)
        await turns.run(lambda: None)

    served(main)
    assert [type(error) for error in caught] == [kind]


@pytest.mark.usefixtures("kind_of_loop")
def test_what_main_raises_is_raised_by_serve() -> None:
    async def main(turns: MainThread) -> None:
        await turns.run(lambda: None)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        served(main)


@pytest.mark.usefixtures("kind_of_loop")
def test_a_task_that_exits_meanwhile_does_not_stop_the_loop_for_good() -> None:
    ended = threading.Event()

    async def leave() -> None:
        await ticks(5)
        raise SystemExit(1)

    async def main(turns: MainThread) -> None:
        leaving = asyncio.ensure_future(leave())
        call = asyncio.ensure_future(turns.run(lambda: ended.wait(DEADLINE_S)))
        with pytest.raises(SystemExit):
            await leaving
        ended.set()
        await call

    served(main)


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_forked_child_that_returns_does_not_go_on_as_a_second_worker(goes_on: bool) -> None:
    """goes_on: to the next message of the same call."""
    children: list[int] = []

    async def main(turns: MainThread) -> None:
        def fork() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread
                if child := os.fork():
                    children.append(child)
            while goes_on and not children:
                turns.between(mono_ms())

        await turns.run(fork)
        await ticks(1)

    served(main)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_a_stand_in_that_comes_too_late_leaves_the_loop_alone() -> None:
    async def main(turns: MainThread) -> None:
        await ticks(1)

    turns = MainThread()
    turns._run_loop_meanwhile()  # nothing is being called: it would run for ever
    turns.serve(main(turns))


@pytest.mark.usefixtures("kind_of_loop")
def test_a_waiter_that_gives_up_does_not_disturb_the_call() -> None:
    begun, ended = threading.Event(), threading.Event()
    finished: list[bool] = []

    def call() -> None:
        begun.set()
        finished.append(ended.wait(DEADLINE_S))

    async def main(turns: MainThread) -> None:
        waiting = asyncio.ensure_future(turns.run(call))
        while not begun.is_set():
            await ticks(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        ended.set()
        await turns.run(lambda: finished.append(True))

    served(main)
    assert finished == [True, True]
