"""Spans for pushes and for calls of a handler (extra ``otel``: the API alone; bring your SDK).

The context of a push travels in the headers of its message. Names and attributes:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ (schema 1.44)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, Tracer

from ..exceptions import Retry
from ..message import StreamMessage
from ..middleware import Middleware, Source, around
from .pushing import TASK, Headers, Pushed, ScopedProducer

SCOPE = "redis_stream_queue"
MESSAGE_ID, DELIVERY_COUNT = "messaging.message.id", "rsq.delivery_count"

Attributes = dict[str, str | int]


class TracedProducer(ScopedProducer):
    """A StreamProducer with a span ``push <stream>`` for each call.

    The context of the span travels in the headers of the messages.
    """

    @contextmanager
    def around_push(self, headers: Headers | None, count: int) -> Iterator[tuple[Headers, Pushed]]:
        """See ScopedProducer. A context that the caller has put into the headers stays."""
        attributes = {**_common(self.stream, "push", "send"), **self._server()}
        if count != 1:
            attributes["messaging.batch.message_count"] = count
        with _span(_tracer(), f"push {self.stream}", SpanKind.PRODUCER, attributes) as span:
            ours: dict[str, str] = {}
            if "traceparent" not in (headers or {}):
                propagate.inject(ours)

            def pushed(ids: Sequence[str]) -> None:
                if count == 1:
                    span.set_attribute(MESSAGE_ID, ids[0])

            yield ours, pushed

    def _server(self) -> Attributes:
        endpoint = self.client.endpoint
        if endpoint.path:
            return {"server.address": endpoint.path}
        host, port = endpoint.nodes[0]
        return {"server.address": host, "server.port": port}


def traced(*, parent: bool = True) -> Middleware:
    """Middleware: a span ``process <stream>`` around each call, with a link to each push.

    parent: True = the span of a single message continues the trace of its push; False = it begins
        a trace of its own, with the link alone. (The span of a batch always does.)
    """

    @around
    @contextmanager
    def traced(argument: Any, source: Source) -> Iterator[None]:
        attributes = _common(source.stream, "process", "process")
        attributes["messaging.consumer.group.name"] = source.group
        attached = None
        if isinstance(argument, StreamMessage):
            attributes |= _of(argument)
            links = _links([argument], details=False)
            if parent and argument.headers:
                attached = context.attach(propagate.extract(argument.headers))
        else:
            attributes["messaging.batch.message_count"] = len(argument)
            links = _links(argument, details=True)
        try:
            name = f"process {source.stream}"
            with _span(_tracer(), name, SpanKind.CONSUMER, attributes, links):
                yield
        finally:
            if attached is not None:
                context.detach(attached)

    return traced


@contextmanager
def _span(
    tracer: Tracer, name: str, kind: SpanKind, attributes: Attributes, links: Sequence[Link] = ()
) -> Iterator[Span]:
    """Make a span the current one. What is raised in it, but for a Retry, is its error."""
    with tracer.start_as_current_span(
        name,
        kind=kind,
        attributes=attributes,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Retry:
            raise
        except BaseException as error:  # whatever is raised is the span's, and goes on
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(StatusCode.ERROR, str(error)[:200])
            raise


def _tracer() -> Tracer:
    return trace.get_tracer(SCOPE)


def _common(stream: str, name: str, kind: str) -> Attributes:
    return {
        "messaging.system": "redis",
        "messaging.destination.name": stream,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }


def _of(message: StreamMessage) -> Attributes:
    found: Attributes = {MESSAGE_ID: message.id, DELIVERY_COUNT: message.delivery_count}
    if task := message.headers.get(TASK):
        found["rsq.task"] = task
    return found


def _links(messages: Sequence[StreamMessage], *, details: bool) -> list[Link]:
    """A link to the push of each message whose headers have its context.

    details: the links carry the attributes in which the messages differ.
    """
    links = []
    for message in messages:
        if message.headers:
            pushed = trace.get_current_span(propagate.extract(message.headers, context.Context()))
            if (where := pushed.get_span_context()).is_valid:
                links.append(Link(where, _of(message) if details else None))
    return links
