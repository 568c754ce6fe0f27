"""A fork waits for a line that another thread says: its child would find the locks taken."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator

import pytest

from redis_stream_queue import _log
from redis_stream_queue._log import log


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
