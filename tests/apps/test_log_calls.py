"""No log call changes what becomes of a message."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.apps.conftest import QUICK, Scene

LOGGING = """
import asyncio
class Panic(BaseException):
    pass

def broken(record):
    raise Panic("the app's own logging")

def hang_in(where):
    if where == "handler":
        class Broken(logging.Handler):
            emit = staticmethod(broken)
        logging.getLogger().addHandler(Broken())
    elif where == "filter":
        class Filter(logging.Filter):
            filter = staticmethod(broken)
        logging.getLogger("redis_stream_queue").addFilter(Filter())
    elif where == "formatter":
        class Formatter(logging.Formatter):
            format = staticmethod(broken)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(Formatter())
    elif where == "factory":
        logging.setLogRecordFactory(lambda *a, **k: broken(None))

hang_in(os.environ["WHERE"])

def act(message):
    note("ran", message.id)
    if message.data.get("fails"):
        raise ValueError("an error that is logged")

@handled
@per_message
def handler(message):
    act(message)

@handled
@per_message(concurrency=3)
async def lanes(message):
    await asyncio.sleep(0)
    act(message)
"""


@pytest.mark.parametrize(
    ("where", "target", "level"),
    [
        ("handler", "handler", "info"),
        ("filter", "lanes", "info"),
        ("formatter", "lanes", "info"),
        ("factory", "handler", "info"),
        ("handler", "lanes", "debug"),
        ("factory", "handler", "debug"),
    ],
)
def test_no_log_call_changes_what_becomes_of_a_message(
    scene: Scene, where: str, target: str, level: str
) -> None:
    """Innocents run once, the failing one its deliveries, the worker lives and drains; what broke
    is said. At debug, asyncio's own lines break as well."""
    args = (*QUICK, "--log-level", level)
    pool = scene.start(LOGGING, *args, env={"WHERE": where}, target=f"app:{target}")
    [worker] = pool.workers()
    guilty, *innocent = ids = scene.push({"fails": True}, *({} for _ in range(10)))
    scene.ledger.wait_settled(ids)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == {guilty: 2, **dict.fromkeys(innocent, 1)}
    assert [letter["original_id"] for letter in scene.ledger.letters()] == [guilty]
    assert pool.workers() == [worker]
    assert pool.drain() == 0
    assert "the app's logging raised Panic" in pool.stderr
