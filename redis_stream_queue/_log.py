"""Our log. No call of it changes what becomes of a message.

The app may configure logging as it likes, and what it hangs in there runs in the middle of our
code: a handler, filter, formatter or record factory that raises would end a loop or a batch. So
all our lines go through one logger of ours that lets nothing out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

from ._clock import mono_ms

NAME = "redis_stream_queue"
SAY_EVERY_MS = 60_000
FORK_WAITS_S = 5  # for the end of a line; then the log hangs, and that is no reason for a fork to


class _Saying:
    """Held while one of our lines is on its way through logging."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._forking = threading.local()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._after_fork_in_child,
        )

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _before_fork(self) -> None:
        self._forking.waited = self._lock.acquire(timeout=FORK_WAITS_S)

    def _after_fork(self) -> None:
        if self._forking.waited:
            self._lock.release()

    def _after_fork_in_child(self) -> None:
        if self._forking.waited:
            self._lock.release()
        else:
            self._lock = threading.RLock()


saying = _Saying()


class SafeLog(logging.LoggerAdapter[logging.Logger]):
    """The package's logger; what its handlers raise goes to standard error, once a minute."""

    _said_at_ms: int | None = None

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
        except BaseException as error:
            self.say_raised(error, msg)

    def say_raised(self, error: BaseException, msg: object) -> None:
        """The app's logging raised this when ``msg`` was to be said."""
        now_ms = mono_ms()
        if self._said_at_ms is not None and now_ms - self._said_at_ms < SAY_EVERY_MS:
            return
        self._said_at_ms = now_ms
        # Not through logging, nor through a sys.stderr that the app may have replaced.
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{at} pid={os.getpid()} the app's logging raised {type(error).__name__}"
        with contextlib.suppress(BaseException):
            os.write(2, f"{line}; this was to be said: {str(msg)[:200]}\n".encode(errors="replace"))


log = SafeLog(logging.getLogger(NAME))
