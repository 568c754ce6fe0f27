"""Payloads: decodes the messages that were read; one that cannot be decoded harms no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from .._burial_mark import DECODE_ERROR, TOO_LARGE
from ..config import ConsumerConfig
from ..connection.replies import Missing
from ..exceptions import SoftTimeLimitExceeded
from ..message import StreamMessage
from .batch import one_line, verdict_of
from .failures import Failures
from .unsettled import Unsettled

FIELDS_SHOWN, NAMES_SHOWN = 20, 300  # fields, and characters of their names

Decode = Callable[[bytes], Any]


class Payloads:
    """Decodes messages; what cannot be decoded, or is too large, goes to the dead letters."""

    def __init__(
        self, config: ConsumerConfig, decode: Decode, unsettled: Unsettled, failures: Failures
    ) -> None:
        self._config = config
        self._decode = decode
        self._unsettled = unsettled
        self._failures = failures

    def decode(self, messages: Sequence[StreamMessage]) -> list[StreamMessage]:
        if self._config.max_payload_bytes is not None:
            messages = [message for message in messages if self._fits(message)]
        if self._config.payload_field is None:
            return list(messages)
        decode = self._decode
        decoded = []
        for message in messages:
            try:
                message.data = decode(message.data)
            except BaseException as error:  # a serializer may raise anything
                if isinstance(error, Exception) and not isinstance(error, SoftTimeLimitExceeded):
                    why = self._misses_field(message) or one_line(error)  # never retried
                    self._unsettled.note_dead(message, DECODE_ERROR, why)
                    continue
                # A panic or a limit says nothing about the payload: a failure.
                self._failures.report([(error, [message])])
                self._unsettled.note([message], verdict_of(error))
            else:
                decoded.append(message)
        return decoded

    def _fits(self, message: StreamMessage) -> bool:
        """Is the payload small enough? If not, the message is dead before it is decoded."""
        data, most = message.data, self._config.max_payload_bytes
        size = len(data) if isinstance(data, bytes) else sum(map(len, chain(*data.items())))
        if most is None or size <= most:
            return True
        why = f"a payload of {size:,} bytes is above max_payload_bytes ({most:,})"
        self._unsettled.note_dead(message, TOO_LARGE, why)
        return False

    def _misses_field(self, message: StreamMessage) -> str:
        """A text about an entry that another program wrote without our field; "" if it has it."""
        if not isinstance(message.data, Missing):
            return ""
        names = ", ".join(sorted(message.headers)[:FIELDS_SHOWN])[:NAMES_SHOWN]
        return (
            f"the entry has no field {self._config.payload_field!r}, only {names}. Set "
            "payload_field to the one that holds the payload, or to None for the whole entry."
        )
