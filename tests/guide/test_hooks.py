"""docs/hooks.md does what it says: nothing that a recycled worker has seen is missing elsewhere."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sentry_sdk
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from redis_stream_queue import ConsumerConfig, Queue, StreamClient, StreamConsumer
from redis_stream_queue.integrations import opentelemetry as ours
from redis_stream_queue.integrations.opentelemetry import TracedProducer, traced
from redis_stream_queue.integrations.sentry import sentry_scope
from tests.guide.conftest import ROOT, Shell
from tests.guide.test_pages import copied
from tests.support.extras import OPENTELEMETRY

FAILING = [7, 27]  # of 40 orders, each twice


class Endpoints:
    """A collector of spans and a Sentry, on loopback."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                bodies.append((self.path, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.where = f"127.0.0.1:{self.server.server_port}"

    def _resources(self) -> Iterator[Any]:
        for path, body in list(self.bodies):
            if path == "/v1/traces":
                yield from ExportTraceServiceRequest.FromString(body).resource_spans

    def spans(self) -> list[Any]:
        scopes = [scope for resource in self._resources() for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def lives(self) -> set[str]:
        """Of processes that have handled something."""
        return {
            value(resource.resource, "service.instance.id")
            for resource in self._resources()
            if any(s.name == "process orders" for x in resource.scope_spans for s in x.spans)
        }

    def envelopes(self, kind: str) -> list[Any]:
        """Items of this type that Sentry got."""
        found = []
        for path, body in list(self.bodies):
            if path.endswith("/envelope/"):
                _, *lines = body.splitlines()
                pairs = zip(lines[::2], lines[1::2], strict=False)
                found += [
                    json.loads(item) for head, item in pairs if json.loads(head)["type"] == kind
                ]
        return found


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    made = Endpoints()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.mark.long
def test_hooks_page(shell: Shell, pool_url: str, endpoints: Endpoints) -> None:
    """Workers recycled every ten messages: no span and no error is missing, none comes twice."""
    shell.environment |= {
        "REDIS_URL": pool_url,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{OPENTELEMETRY}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{endpoints.where}",
        "SENTRY_DSN": f"http://key@{endpoints.where}/1",
    }
    life, scope, telemetry = [b.text for b in copied(shell, "hooks.md") if b.language == "sh"]

    said = shell.run(life)
    for line in ("43", "sums: 1 took 0.0 s", "44", "sums: 2 took 0.0 s", "closed after 2 calls"):
        assert line in said.splitlines()
    printed = "\n".join(line for line in shell.run(scope).splitlines() if " pid=" not in line)
    assert re.search(r"before (\S+)\nhello world\nafter \1", printed)

    said = shell.run(telemetry, exit_code=1)
    assert "Sentry is attempting" not in said
    assert len(endpoints.lives()) >= 4
    spans = endpoints.spans()
    assert len({span.span_id for span in spans}) == len(spans)
    pushes = {span.span_id: span for span in spans if span.name == "push orders"}
    calls = [span for span in spans if span.name == "process orders"]
    assert len(pushes) == 40
    assert Counter(span.parent_span_id for span in calls).keys() == pushes.keys()
    assert len(calls) == 40 + len(FAILING)
    for call in calls:
        push = pushes[call.parent_span_id]
        assert call.trace_id == push.trace_id
        assert [link.span_id for link in call.links] == [push.span_id]
        assert value(call, "messaging.message.id") == value(push, "messaging.message.id")
    errors = [span for span in calls if value(span, "error.type") == "ValueError"]
    assert sorted(value(span, "rsq.delivery_count") for span in errors) == [1, 1, 2, 2]

    assert len(endpoints.envelopes("transaction")) == 40 + len(FAILING)
    events = endpoints.envelopes("event")
    texts = [event["exception"]["values"][-1]["value"] for event in events]
    assert sorted(texts) == sorted(f"order {n} has no address" for n in FAILING)
    failed = {value(span, "messaging.message.id") for span in errors}
    assert {event["tags"]["rsq.message_id"] for event in events} == failed


def value(span: Any, key: str) -> Any:
    for attribute in span.attributes:
        if attribute.key == key:
            return getattr(attribute.value, attribute.value.WhichOneof("value"))
    return None


async def test_spans_of_batches_and_of_what_asks_for_a_retry(
    pool_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has a link to each push and no parent; many pushed in one call share one span; a
    context of the caller's own stays; without parents there are links only."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(ours, "_tracer", lambda: provider.get_tracer("here"))
    client = StreamClient.from_url(pool_url)
    producer = TracedProducer(client, "orders")
    await producer.push_many([1, 2])
    await producer.push(3, headers={"traceparent": f"00-{7:032x}-{8:016x}-01", "tenant": "a"})
    seen: list[dict[str, str]] = []

    def handle(messages: Any) -> list[str]:
        seen.extend(message.headers for message in messages)
        return [message.id for message in messages]

    config = ConsumerConfig(group="g", block_ms=0)
    await StreamConsumer(client, "orders", config, handle, middleware=[traced()]).run_once()
    many, one, batch = exporter.get_finished_spans()

    assert (many.name, many.attributes["messaging.batch.message_count"]) == ("push orders", 2)
    assert "messaging.message.id" not in many.attributes
    assert one.attributes["server.address"]
    assert [headers.get("tenant") for headers in seen] == [None, None, "a"]
    assert (batch.name, batch.parent) == ("process orders", None)
    assert [link.context.span_id for link in batch.links] == [
        many.context.span_id,
        many.context.span_id,
        8,
    ]
    assert batch.attributes["messaging.batch.message_count"] == 3
    await client.close()


async def test_tasks_of_a_queue_are_traced(pool_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and async ones, side by side: each is a child of its push, by its name."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(ours, "_tracer", lambda: provider.get_tracer("here"))
    client = StreamClient.from_url(pool_url)
    queue = Queue("jobs", client=client, producer=TracedProducer)
    ran: list[tuple[str, int]] = []

    @queue.task(name="plain")
    def plain(n: int) -> None:
        ran.append(("plain", n))

    @queue.task(name="waits", concurrency=3)
    async def waits(n: int) -> None:
        await asyncio.sleep(0.01)
        ran.append(("waits", n))

    await plain.push(1)
    await waits.push_many([(n,) for n in range(5)])
    config = ConsumerConfig(group=queue.group, block_ms=0)
    handler = queue.stream_handler()
    await StreamConsumer(client, "jobs", config, handler, middleware=[traced()]).run_once()

    pushes = [span for span in exporter.get_finished_spans() if span.name == "push jobs"]
    calls = [span for span in exporter.get_finished_spans() if span.name == "process jobs"]
    assert sorted(ran) == [("plain", 1), *(("waits", n) for n in range(5))]
    assert sorted(call.attributes["rsq.task"] for call in calls) == ["plain", *["waits"] * 5]
    assert {call.parent.span_id for call in calls} == {push.context.span_id for push in pushes}
    await client.close()


async def test_sentry_hears_of_a_task_when_its_own_rules_end_it(
    pool_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the last delivery that its group allows: that may never come."""
    told: list[str] = []
    monkeypatch.setattr(sentry_sdk, "capture_exception", lambda error: told.append(str(error)))
    client = StreamClient.from_url(pool_url)
    queue = Queue("jobs", client=client)

    def fail(name: str) -> None:
        raise ValueError(name)

    tasks = [
        queue.task(name="once", max_deliveries=1)(fail),
        queue.task(name="forgood", no_retry_on=(ValueError,))(fail),
        queue.task(name="patient", max_deliveries=3, retry_delay_ms=1)(fail),
    ]
    for task in tasks:
        await task.push(task.name)
    config = ConsumerConfig(group=queue.group, block_ms=0, max_deliveries=5, min_idle_claim_ms=1)
    handler = queue.stream_handler()
    consumer = StreamConsumer(client, "jobs", config, handler, middleware=[sentry_scope()])
    async with asyncio.timeout(20):
        while len(told) < 3:
            await consumer.run_once()
            await asyncio.sleep(0.002)
    await consumer.run_once()

    assert sorted(told) == ["forgood", "once", "patient"]
    assert consumer.metrics().total_errors == 5
    await client.close()
