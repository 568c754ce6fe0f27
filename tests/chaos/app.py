"""The app that the pools run: that of the pools' tests (tests/support/app.py) with two handlers of
its own, and which messages it gets how often."""

from __future__ import annotations

from tests.support import ledger
from tests.support.ledger import DLQ, GROUP, STREAM

__all__ = ["DLQ", "DOOMED", "GROUP", "MAX_DELIVERIES", "MAX_STREAM_SIZE", "SOURCE", "STREAM"]

MAX_DELIVERIES = 4
MAX_STREAM_SIZE = 200  # small, so that trimming goes on all the time

DOOMED = ("raise", "exit", "segfault", "die", "reject")  # a dead letter in the end, as no other is
WEIGHTS = {
    "nothing": 86,
    "run long": 5,
    "raise_first": 4,
    "reject": 2,
    "raise": 1,
    "exit": 0.7,
    "segfault": 0.7,
    "die": 0.6,
}

SOURCE = (
    ledger.SOURCE
    + f"""
crew = stream_handler(
    "work", group="crew", max_deliveries={MAX_DELIVERIES}, max_stream_size={MAX_STREAM_SIZE}
)

@crew
@per_message
def plain(message):
    act(message)

@crew
@per_message(concurrency=3)
async def asynchronous(message):
    await act_async(message)
"""
)
