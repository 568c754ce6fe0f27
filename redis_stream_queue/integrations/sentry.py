"""Sentry: a scope of its own for each call of a handler, and an event for each final failure.

Call ``sentry_sdk.init()`` in the module of the handlers, as in any program.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger

from .._clock import wall_ms
from ..delivery import current
from ..exceptions import Reject, Retry
from ..message import StreamMessage, id_key
from ..middleware import Middleware, Source, around
from .pushing import TASK, Headers, Pushed, ScopedProducer

OUR_ERRORS = "redis_stream_queue.delivery.failures"  # this logger would send each failure again
FLUSH_S = 2.0


class SentryProducer(ScopedProducer):
    """A StreamProducer with a span for each push. The trace travels in the headers of messages."""

    @contextmanager
    def around_push(self, headers: Headers | None, count: int) -> Iterator[tuple[Headers, Pushed]]:
        """See ScopedProducer. A trace that the caller has put into the headers stays."""
        with sentry_sdk.start_span(op="queue.publish", name=self.stream) as span:
            span.set_data("messaging.system", "redis")
            span.set_data("messaging.destination.name", self.stream)
            ours = {
                "sentry-trace": sentry_sdk.get_traceparent(),
                "baggage": sentry_sdk.get_baggage(),
            }
            given = "sentry-trace" in (headers or {})
            yield (
                {} if given else {name: value for name, value in ours.items() if value},
                lambda ids: span.set_data("messaging.message.id", ", ".join(ids[:10])),
            )


def sentry_scope() -> Middleware:
    """Middleware: a scope and a transaction around each call, with the message's id in them.

    An exception is sent to Sentry when it makes the message a dead letter: at its last delivery, or
    where its task does not retry it. An exception that is followed by a retry is not sent, nor are
    Retry and Reject.
    """
    ignore_logger(OUR_ERRORS)

    @around
    @contextmanager
    def sentry_scope(argument: Any, source: Source) -> Iterator[None]:
        single = isinstance(argument, StreamMessage)
        messages: list[StreamMessage] = [argument] if single else argument
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            scope.set_tag("rsq.stream", source.stream)
            scope.set_tag("rsq.message_id", messages[0].id)
            transaction = sentry_sdk.continue_trace(
                messages[0].headers if single else {},
                op="queue.process",
                name=messages[0].headers.get(TASK) or f"process {source.stream}",
                source="task",
            )
            with sentry_sdk.start_transaction(transaction):
                for name, value in _data(messages, source).items():
                    transaction.set_data(name, value)
                try:
                    yield
                except (Retry, Reject):
                    raise
                except BaseException as error:  # whatever is raised is told, and goes on
                    transaction.set_status("internal_error")
                    rules = current.rules()  # of a task; a batch has none
                    last = max(message.delivery_count for message in messages)
                    if last >= rules.most(source.max_deliveries) or not rules.retries(error):
                        sentry_sdk.capture_exception(error)
                    raise

    return sentry_scope


def flush() -> None:
    """Send the events that are left, within two seconds. Call it in ``on_worker_stop``.

    Otherwise Sentry sends them at exit, and writes three lines on standard error.
    """
    sentry_sdk.flush(FLUSH_S)


def _data(messages: list[StreamMessage], source: Source) -> dict[str, Any]:
    first = messages[0]
    data: dict[str, Any] = {
        "messaging.system": "redis",
        "messaging.destination.name": source.stream,
        "messaging.message.id": first.id,
        "messaging.message.retry.count": first.delivery_count - 1,
        "messaging.message.receive.latency": max(wall_ms() - id_key(first.id)[0], 0),
    }
    if len(messages) > 1:
        data["messaging.batch.message_count"] = len(messages)
    return data
