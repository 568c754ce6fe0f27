"""A fork waits for a line that another thread says: its child would find the locks taken."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from redis_stream_queue import _log

log = _log.logger("redis_stream_queue.some.module")


class Blocked(logging.Handler):
    """Stays in the middle of a line until it is told to go on, as one behind a full pipe does."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.free = threading.Event(), threading.Event()
        self.ours = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        with self.ours:
            self.busy.set()
            self.free.wait(10)


@pytest.fixture
def blocked() -> Iterator[Blocked]:
    """A handler of our log, and a thread that is in the middle of a line."""
    handler, logger = Blocked(), logging.getLogger(_log.NAME)
    logger.addHandler(handler)
    thread = threading.Thread(target=log.error, args=("a line",))
    thread.start()
    assert handler.busy.wait(10)
    yield handler
    handler.free.set()
    thread.join(10)
    logger.removeHandler(handler)


def status_of_child(in_child: object) -> int:
    """Exit code of a child that calls this; 9 if it raised."""
    assert callable(in_child)
    if not (pid := os.fork()):
        code = 9
        try:
            code = in_child()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_finds_no_lock_of_the_log_taken(blocked: Blocked) -> None:
    threading.Timer(0.2, blocked.free.set).start()
    assert status_of_child(lambda: 0 if blocked.ours.acquire(timeout=1) else 1) == 0


def test_the_parent_can_say_lines_after_a_fork(blocked: Blocked) -> None:
    blocked.free.set()
    assert status_of_child(lambda: log.error("in the child") or 0) == 0
    log.error("in the parent")


def test_a_line_that_never_ends_does_not_hold_a_fork_for_ever(
    blocked: Blocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_log, "FORK_WAITS_S", 0.05)
    logging.getLogger(_log.NAME).removeHandler(blocked)
    assert status_of_child(lambda: log.error("in the child") or 0) == 0
    blocked.free.set()
    log.error("in the parent")


def test_a_fork_in_the_middle_of_a_line_of_its_own_thread() -> None:
    class Forks(logging.Handler):
        status: int | None = None

        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger(_log.NAME).removeHandler(self)
            self.status = status_of_child(lambda: log.error("in the child") or 0)

    forks = Forks()
    logging.getLogger(_log.NAME).addHandler(forks)
    log.error("a line")
    assert forks.status == 0


def test_lines_do_not_wait_for_each_other() -> None:
    """A log handler of the app's may use us, and say a line of ours while it holds its own lock."""

    class Ships(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.go_on = threading.Event(), threading.Event()

        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "app":
                self.inside.set()
                self.go_on.wait(10)
                log.debug("shipped")
                log.error("shipped, with a warning")

    ships, app, ours = Ships(), logging.getLogger("app"), logging.getLogger(_log.NAME)
    app.addHandler(ships)
    ours.addHandler(ships)
    threads = [threading.Thread(target=app.error, args=("an app's line",), daemon=True)]
    threads.append(threading.Thread(target=log.error, args=("our line",), daemon=True))
    try:
        threads[0].start()
        assert ships.inside.wait(10)
        threads[1].start()  # it waits for the handler
        while threads[1].ident not in _log.saying._depths:
            assert threads[1].is_alive()
        ships.go_on.set()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()
    finally:
        app.removeHandler(ships)
        ours.removeHandler(ships)
