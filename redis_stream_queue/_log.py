"""Our log. No call of it changes what becomes of a message.

The app may configure logging as it likes, and what it hangs in there runs in the middle of our
code: a handler, filter, formatter or record factory that raises would end a loop or a batch. So
all our lines go through loggers of ours that let nothing out: one a module, under one parent. What
an app does to the parent counts for all of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any, ClassVar

from ._clock import mono_ms
from ._plain import without_passwords

NAME = "redis_stream_queue"
SAY_EVERY_MS = 60_000
FORK_WAITS_S = 5  # longest, for the end of a line: a log that hangs must hold up no fork for ever
LOOK_S = 0.001


class _Saying:
    """Entered for each of our lines; a fork waits until no other thread is in one.

    Lines do not wait for each other: that would be a lock more, taken in another order than the
    app's own where one of its log handlers uses us.
    """

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}  # of the threads that are in a line, by their ident
        self._no_fork = threading.RLock()  # held during a fork; a line begins when it is free
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._no_fork.release,
            after_in_child=self._after_fork_in_child,
        )

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._no_fork:
            self._depths[me] = self._depths.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        self._depths[me] -= 1
        if not self._depths[me]:
            del self._depths[me]

    def _others(self) -> bool:
        return bool(self._depths.keys() - {threading.get_ident()})

    def _before_fork(self) -> None:
        self._no_fork.acquire()
        ends_at = time.monotonic() + FORK_WAITS_S
        while self._others() and time.monotonic() < ends_at:
            time.sleep(LOOK_S)

    def _after_fork_in_child(self) -> None:
        me = threading.get_ident()
        self._depths = {me: self._depths[me]} if me in self._depths else {}
        self._no_fork.release()


saying = _Saying()


class _OfAModule(logging.Logger):
    """A logger under the parent; filters of that and its being disabled count here, too."""

    @property
    def disabled(self) -> bool:
        return _parent.disabled

    @disabled.setter
    def disabled(self, _: bool) -> None:
        pass

    def makeRecord(self, *args: Any, **others: Any) -> logging.LogRecord:
        """A record without the passwords of URLs, whoever wrote them into what it says."""
        record = super().makeRecord(*args, **others)
        text = logging.LogRecord.getMessage(record)
        if (shown := without_passwords(text)) != text:
            record.msg, record.args = shown, ()
        return record

    def handle(self, record: logging.LogRecord) -> None:
        passed: Any = _parent.filter(record)  # from Python 3.12 on it may be another record
        if passed:
            super().handle(record if passed is True else passed)


class SafeLog(logging.LoggerAdapter[logging.Logger]):
    """The log of a module; what its handlers raise goes to standard error, once a minute."""

    _said_at_ms: ClassVar[int | None] = None  # by whichever of them

    def process(self, msg: object, kwargs: Any) -> tuple[object, Any]:
        """Nothing is added."""
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As of logging.Logger, but it never raises."""
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        try:
            if self.isEnabledFor(level):
                with saying:
                    super().log(level, msg, *args, **kwargs)
        except BaseException as error:  # a handler of the app's may raise anything
            self.say_raised(error, msg)

    def say_raised(self, error: BaseException, msg: object) -> None:
        """The app's logging raised this when ``msg`` was to be said."""
        now_ms = mono_ms()
        if self._said_at_ms is not None and now_ms - self._said_at_ms < SAY_EVERY_MS:
            return
        SafeLog._said_at_ms = now_ms
        # Not through logging, nor through a sys.stderr that the app may have replaced.
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{at} pid={os.getpid()} the app's logging raised {type(error).__name__}"
        with contextlib.suppress(BaseException):  # there is nobody left to tell
            os.write(2, f"{line}; this was to be said: {str(msg)[:200]}\n".encode(errors="replace"))


_parent = logging.getLogger(NAME)


def logger(name: str) -> SafeLog:
    """The log of the module of this name."""
    made = logging.getLogger(name)
    made.__class__ = _OfAModule
    return SafeLog(made)
