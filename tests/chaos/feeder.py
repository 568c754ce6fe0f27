"""Pushes messages of all kinds without a break; a push counts only if its call returned an id."""

from __future__ import annotations

import random
import time

from redis import RedisError

from redis_stream_queue import BacklogFull, StreamClient, StreamProducer

from .app import MAX_STREAM_SIZE, STREAM, WEIGHTS
from .background import Background
from .verdict import Pushed

MAX_BACKLOG = 300  # the pools are kept busy, and can still drain it in the end
PAUSE_S = 0.2  # longest between two pushes
MOST_AT_ONCE = 8


class Feeder(Background):
    """A thread with a producer of its own, connected directly."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__("feeder")
        self.pushed: list[Pushed] = []
        self.unconfirmed: set[int] = set()
        self._random = random.Random(seed)
        self._producer = StreamProducer(
            StreamClient.from_url(url, socket_timeout=5.0),
            STREAM,
            max_len=MAX_STREAM_SIZE,
            max_backlog=MAX_BACKLOG,
        )
        self._n = 0

    def _run(self) -> None:
        while not self._over.wait(self._random.random() * PAUSE_S):
            batch = [self._message() for _ in range(self._random.randint(1, MOST_AT_ONCE))]
            try:
                ids = self._producer.push_many_sync(batch)
            except BacklogFull:
                continue  # nothing was sent
            except (RedisError, OSError):
                self.unconfirmed |= {m["n"] for m in batch}
                continue
            at_s = time.time()
            self.pushed += [
                Pushed(m["n"], i, m["do"], at_s) for m, i in zip(batch, ids, strict=True)
            ]

    def _message(self) -> dict[str, object]:
        self._n += 1
        do = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        slow = do == "run long" or self._random.random() < 0.01
        s = self._random.uniform(0.3, 1.5) if slow else self._random.uniform(0.001, 0.03)
        return {"n": self._n, "do": do, "s": round(s, 4)}
