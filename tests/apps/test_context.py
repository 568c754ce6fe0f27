"""Messages do not see each other's context variables."""

from __future__ import annotations

import pytest

from tests.apps.conftest import QUICK, Scene

CONTEXT = """
import asyncio, contextvars
tenant = contextvars.ContextVar("tenant", default="nobody")

def see(message):
    note("saw", message.id, tenant.get())
    tenant.set("ALICE")
    if message.data.get("fails") and message.delivery_count == 1:
        raise ValueError

@handled
@per_message
def handler(message):
    see(message)

@handled
@per_message
async def one_by_one(message):
    see(message)
    await asyncio.sleep(message.data.get("s", 0))
    assert tenant.get() == "ALICE"

@handled
@per_message(concurrency=2)
async def lanes(message):
    see(message)
    await asyncio.sleep(0.001)
    assert tenant.get() == "ALICE"

def once(messages):
    see(messages[0])
    return [m.id for m in messages]

@handled
def batch(messages):
    return once(messages)

@handled
async def async_batch(messages):
    return once(messages)
"""


@pytest.mark.parametrize("target", ["handler", "one_by_one", "lanes", "batch", "async_batch"])
def test_messages_do_not_see_each_other_s_context(scene: Scene, target: str) -> None:
    scene.start(CONTEXT, *QUICK, target=f"app:{target}")
    for round_ in range(3):
        ids = scene.push({"fails": target == "handler"}, {}, {"s": 0.001}, {})
        scene.ledger.wait_settled(ids)
        assert len(scene.notes("saw")) > round_
    assert {line.split()[2] for line in scene.notes("saw")} == {"nobody"}
    assert scene.ledger.letters() == []
