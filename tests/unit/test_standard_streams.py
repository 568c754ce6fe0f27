"""The check of the standard streams, which two threads of a worker make."""

from __future__ import annotations

import threading

from redis_stream_queue.pool.standard_streams import StandardStreams


def test_two_threads_may_look_at_the_same_moment() -> None:
    """The handler's before its next message, the loop's before a read."""
    streams = StandardStreams()
    raised: list[BaseException] = []

    def look() -> None:
        try:
            for _ in range(5000):
                streams.open_again()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert raised == []
