"""A line in the log at level debug for each message: how it ended, and after how long.

At other levels a session takes a plain Batch, and none of this runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from .._clock import mono_ms
from .._log import logger
from ..message import StreamMessage
from .batch import Batch, Verdict

log = logger(__name__)


def batch_kind(stream: str) -> Callable[..., Batch]:
    """The class of batches for this stream, by the level of the log now."""
    return partial(ToldBatch, stream) if log.isEnabledFor(logging.DEBUG) else Batch


class ToldBatch(Batch):
    """A batch that logs the end of each message of ``stream``."""

    def __init__(self, stream: str, *args: Any) -> None:
        super().__init__(*args)
        self._stream = stream
        self._started_ms: dict[str, int] = {}
        self._batch_ms = mono_ms()

    def start_one(self, now_ms: int) -> StreamMessage | None:
        message = super().start_one(now_ms)
        if message is not None:
            self._started_ms[message.id] = now_ms
        return message

    def done(self, message: StreamMessage) -> None:
        super().done(message)
        self._tell(message, "done")

    def fail(self, message: StreamMessage, error: BaseException) -> None:
        super().fail(message, error)
        self._tell(message, type(error).__name__)

    def finish_batch(
        self, messages: list[StreamMessage], done: list[StreamMessage], others: Verdict
    ) -> None:
        super().finish_batch(messages, done, others)
        ids = {message.id for message in done}
        for message in messages:
            self._tell(message, "done" if message.id in ids else "not done")

    def _tell(self, message: StreamMessage, how: str) -> None:
        took_ms = mono_ms() - self._started_ms.pop(message.id, self._batch_ms)
        log.debug(
            "%s of %s: %s after %d ms (delivery %d)",
            message.id,
            self._stream,
            how,
            took_ms,
            message.delivery_count,
        )
