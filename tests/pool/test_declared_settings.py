"""What ``@stream_handler`` declares is what the pool does, a declared ``None`` included.

One scene for every field of ConsumerConfig: a declaration, what is in the stream, what must come of
it. The handler prints each message, so that a scene can look at what it was given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from redis_stream_queue import ConsumerConfig
from tests.support.pool import PoolProcess

APP = """
from redis_stream_queue import Retry, per_message, stream_handler

@stream_handler("orders", {settings})
def handler(messages):
    print("batch", len(messages), flush=True)
    for message in messages:
        print("got", repr(message.data), message.delivery_count, flush=True)
    return [m.id for m in messages if "bad" not in str(m.data)]
"""
GOOD, BAD = {"data": '"good"'}, {"data": '"bad"'}
FOREIGN = {"sku": "a-1", "qty": "3"}


class Outcome(NamedTuple):
    """After the pool has ended: its output lines, its log, its exit code, the server."""

    lines: list[str]
    log: str
    code: int
    server: Any

    @property
    def letters(self) -> list[dict[str, str]]:
        return [fields for _, fields in self.server.xrange("orders_dlq")]


Scene = tuple[str, str, list[dict[str, str]], Callable[[Outcome], object]]


SCENES: list[Scene] = [
    ("group", "group='crew'", [GOOD],
     lambda w: w.server.xinfo_groups("orders")[0]["name"] == "crew"),
    ("worker_name", "worker_name='me'", [GOOD], lambda w: "worker_name is left out" in w.log),
    ("dlq_stream", "dlq_stream='grave', max_deliveries=1", [BAD],
     lambda w: w.server.xlen("grave") == 1 and w.server.exists("orders_dlq") == 0),
    ("dlq_stream", "dlq_stream=None, max_deliveries=1", [BAD],
     lambda w: "dead letters go to no stream" in w.log and "and dropped" in w.log
     and w.server.exists("orders_dlq") == 0),
    ("dlq_group", "dlq_group='clerks'", [GOOD],
     lambda w: w.server.xinfo_groups("orders_dlq")[0]["name"] == "clerks"),
    ("dlq_max_len", "dlq_max_len=1, max_deliveries=1", [BAD] * 300,
     lambda w: 0 < len(w.letters) < 300),
    ("batch_size", "batch_size=3", [GOOD] * 7, lambda w: "batch 3" in w.lines and w.code == 0),
    ("max_payload_bytes", "max_payload_bytes=5", [GOOD],
     lambda w: w.letters[0]["reason"] == "too_large" and not w.lines),
    ("block_ms", "block_ms=0", [GOOD], lambda w: w.code == 0),
    ("min_idle_claim_ms", "min_idle_claim_ms=0", [GOOD], lambda w: w.code == 0),
    ("max_deliveries", "max_deliveries=1", [BAD], lambda w: w.lines.count("got 'bad' 1") == 1
     and w.letters[0]["delivery_count"] == "1"),
    ("max_stream_size", "max_stream_size=1", [GOOD] * 3, lambda w: w.code == 0),
    ("max_claim_passes", "max_claim_passes=1, batch_size=1, retry_delay_ms=0", [BAD] * 3,
     lambda w: len(w.letters) == 3),
    ("retry_delay_ms", "retry_delay_ms=0", [BAD], lambda w: len(w.letters) == 1),
    ("retry_delay_ms", "retry_delay_ms=None, min_idle_claim_ms=50", [BAD],
     lambda w: len(w.letters) == 1),
    ("retry_max_delay_ms", "retry_delay_ms=20, retry_max_delay_ms=None, max_deliveries=6", [BAD],
     lambda w: "got 'bad' 6" in w.lines),
    ("payload_field", "payload_field=None", [FOREIGN] * 3,
     lambda w: w.lines.count(f"got {FOREIGN!r} 1") == 3 and not w.letters and w.code == 0),
    ("payload_field", "payload_field='body'", [{"body": "[1]", "kind": "x"}],
     lambda w: "got [1] 1" in w.lines),
    ("payload_field", "max_deliveries=3", [FOREIGN],
     lambda w: "no field 'data', only qty, sku" in w.letters[0]["last_error"] and w.code == 1),
]  # fmt: skip


def test_there_is_a_scene_for_every_setting() -> None:
    assert {name for name, *_ in SCENES} == {f.name for f in dataclasses.fields(ConsumerConfig)}


@pytest.mark.parametrize(
    ("settings", "entries", "holds"),
    [scene[1:] for scene in SCENES],
    ids=[f"{name}-{settings}" for name, settings, *_ in SCENES],
)
def test_it_is_what_the_pool_does(
    settings: str,
    entries: list[dict[str, str]],
    holds: Callable[[Outcome], object],
    pool_url: str,
    tmp_path: Path,
) -> None:
    server = redis.Redis.from_url(pool_url, decode_responses=True)
    for entry in entries:
        server.xadd("orders", entry)  # type: ignore[arg-type]
    app = APP.format(settings=settings)
    with PoolProcess(app, "--workers", "1", "--burst", url=pool_url, cwd=tmp_path) as pool:
        code = pool.wait()
        outcome = Outcome(pool.stdout.splitlines(), pool.stderr, code, server)
        assert holds(outcome), json.dumps([outcome.lines, outcome.letters])
        groups = server.xinfo_groups("orders")
        assert [group["pending"] for group in groups] == [0]
    server.close()
