"""The app that the pools run: that of the pools' tests (tests/support/app.py) with two handlers of
its own, and which messages it gets how often."""

from __future__ import annotations

from datetime import datetime

from tests.support import ledger
from tests.support.ledger import DLQ, GROUP, STREAM

__all__ = [
    "BEAT",
    "DLQ",
    "DOOMED",
    "GROUP",
    "MAX_DELIVERIES",
    "MAX_STREAM_SIZE",
    "SOURCE",
    "STREAM",
    "tick_number",
]

MAX_DELIVERIES = 4
MAX_STREAM_SIZE = 200  # small, so that trimming goes on all the time

LONG_MS = 600  # a retry that waits longer is scheduled meanwhile

BEAT = "beat"  # a periodic message, each second

DOOMED = ("raise", "exit", "segfault", "die", "reject")  # a dead letter in the end, as no other is
WEIGHTS = {
    "nothing": 86,
    "run long": 5,
    "raise_first": 4,
    "retry_long": 3,
    "reject": 2,
    "raise": 1,
    "exit": 0.7,
    "segfault": 0.7,
    "die": 0.6,
}

SOURCE = (
    ledger.SOURCE
    + f"""
from dataclasses import replace
from datetime import datetime

from redis_stream_queue import Every
from redis_stream_queue.delivery import in_flight

in_flight.LONG_MS = {LONG_MS}

crew = stream_handler(
    "work", group="crew", max_deliveries={MAX_DELIVERIES}, max_stream_size={MAX_STREAM_SIZE},
    periodic=[Every("{BEAT}", 1, {{"n": 0, "do": "nothing", "s": 0.01}}, catch_up="all")],
)

def named(message):
    # As the ledger knows it: what was tried again much later by its first id, a tick by its second,
    # as a negative number.
    message = replace(message, id=message.headers.get("rsq:first", message.id))
    tick = message.headers.get("rsq:tick")
    if not tick:
        return message
    n = -int(datetime.fromisoformat(tick).timestamp())
    return replace(message, data={{**message.data, "n": n}})

@crew
@per_message
def plain(message):
    act(named(message))

@crew
@per_message(concurrency=3)
async def asynchronous(message):
    await act_async(named(message))
"""
)


def tick_number(tick: str) -> int:
    """The number of a tick's message in the ledger; tick: its header."""
    return -int(datetime.fromisoformat(tick).timestamp())
