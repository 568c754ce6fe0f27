"""Interrupting a plain handler whose message was cancelled."""

from __future__ import annotations

import signal
import threading

import pytest

from redis_stream_queue import StreamMessage, per_message
from redis_stream_queue.delivery.batch import CANCELLED, Batch
from redis_stream_queue.pool.worker.cancellation import INTERRUPT, Cancellation


@pytest.mark.parametrize("others", [["0-1"], ["0-1", "0-3"], []])
def test_of_several_cancelled_at_once_the_one_that_runs_is_interrupted(others: list[str]) -> None:
    """Others have just ended, and Redis does not know yet; one signal may stand for all."""
    before = signal.getsignal(INTERRUPT)
    cancellation = Cancellation()

    def cancel_all() -> None:
        for entry_id in ["0-2", *others]:
            batch.cancel(entry_id)
            cancellation.interrupt(entry_id)

    @per_message
    def handle(message: StreamMessage) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [INTERRUPT])
        thread = threading.Thread(target=cancel_all)
        thread.start()
        thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [INTERRUPT])

    batch = Batch([StreamMessage("0-2", b"", 1)])
    try:
        handle.run(batch)
    finally:
        signal.signal(INTERRUPT, before)
    assert [verdict for _, verdict in batch.collect()] == [CANCELLED]
