"""Pushes messages of all kinds without a break; a push counts only if its call returned an id."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import RedisError

from redis_stream_queue import BacklogFull, StreamClient, StreamProducer

from .app import GROUP, MAX_STREAM_SIZE, STREAM, WEIGHTS
from .background import Background
from .later import Refused
from .verdict import Pushed

MAX_BACKLOG = 300  # the pools are kept busy, and can still drain it in the end
PAUSE_S = 0.2  # longest between two pushes
MOST_AT_ONCE = 8
LONGEST_DELAY_MS = 3000
KEYS = ("sync:1", "sync:2", "sync:3")  # of unique messages
LATER = tuple(do for do in WEIGHTS if do != "retry_long")  # else its first id is not its entry's
TTL_MS = (100, 1000, 600_000)
TRIES, AGAIN_S = 20, 0.2  # of a push with a dedup_id whose answer was lost


class Feeder(Background):
    """A thread with a producer of its own, connected directly.

    pushed: in their order. refused: unique messages whose key was taken.
    """

    def __init__(self, url: str, seed: int, pushed: list[Pushed]) -> None:
        super().__init__("feeder")
        self.pushed = pushed
        self.refused: list[Refused] = []
        self.unconfirmed: set[int] = set()
        self._random = random.Random(seed)
        self._producer = StreamProducer(
            StreamClient.from_url(url, socket_timeout=5.0),
            STREAM,
            GROUP,
            max_len=MAX_STREAM_SIZE,
            max_backlog=MAX_BACKLOG,
        )
        self._n = 0

    def _run(self) -> None:
        ways: dict[Callable[[], None], int] = {
            self._some: 12,
            self._for_later: 4,
            self._once: 2,
            self._unique: 4,
            self._expiring: 1,
        }
        while not self._over.wait(self._random.random() * PAUSE_S):
            [way] = self._random.choices(list(ways), list(ways.values()))
            way()

    def _some(self) -> None:
        self._push(self._batch())

    def _for_later(self) -> None:
        self._push(self._batch(LATER), delay_ms=self._random.randint(0, LONGEST_DELAY_MS))

    def _batch(self, only: Sequence[str] = tuple(WEIGHTS)) -> list[dict[str, Any]]:
        return [self._message(only) for _ in range(self._random.randint(1, MOST_AT_ONCE))]

    def _once(self) -> None:
        """Again until there is an answer, and once more: one message all the same."""
        message = self._message(LATER)
        dedup_id, delay_ms = f"once {self._n}", self._random.choice((0, 500))
        ids = []
        for _ in range(TRIES):
            try:
                ids.append(self._producer.push_sync(message, dedup_id=dedup_id, delay_ms=delay_ms))
            except (BacklogFull, RedisError, OSError):
                self.unconfirmed.add(self._n)
                self._over.wait(AGAIN_S)
            if len(ids) == 2:
                break
        self.pushed += [Pushed(self._n, i, message["do"], time.time()) for i in dict.fromkeys(ids)]

    def _unique(self) -> None:
        message, key = self._message(only=("nothing", "run long")), self._random.choice(KEYS)
        begun_s, delay_ms = time.time(), self._random.choice((0, 0, 0, 800))
        try:
            pushed: Any = self._producer.push_sync(message, unique=key, delay_ms=delay_ms)
        except BacklogFull:
            return
        except (RedisError, OSError):
            self.unconfirmed.add(self._n)
            return
        if pushed.duplicate:
            self.refused.append(Refused(self._n, str(pushed), key, begun_s))
        else:
            self.pushed.append(
                Pushed(self._n, str(pushed), message["do"], time.time(), begun_s, key)
            )

    def _expiring(self) -> None:
        ttl_ms = self._random.choice(TTL_MS)
        self._push([self._message()], ttl_s=ttl_ms / 1000, ttl_ms=ttl_ms)

    def _push(
        self, batch: Sequence[dict[str, Any]], ttl_s: float | None = None, **extras: Any
    ) -> None:
        begun_s = time.time()
        try:
            ids = self._producer.push_many_sync(batch, **extras)
        except BacklogFull:
            return  # nothing was sent
        except (RedisError, OSError):
            self.unconfirmed |= {m["n"] for m in batch}
            return
        at_s = time.time()
        self.pushed += [
            Pushed(m["n"], i, m["do"], at_s, begun_s, ttl_s=ttl_s)
            for m, i in zip(batch, ids, strict=True)
        ]

    def _message(self, only: Sequence[str] = tuple(WEIGHTS)) -> dict[str, Any]:
        self._n += 1
        do = self._random.choices(only, [WEIGHTS[do] for do in only])[0]
        slow = do == "run long" or self._random.random() < 0.01
        s = self._random.uniform(0.3, 1.5) if slow else self._random.uniform(0.001, 0.03)
        return {"n": self._n, "do": do, "s": round(s, 4)}

    def taken_keys(self) -> list[str]:
        """Push one more for each key; which are refused? When all is finished, none may be."""
        taken = []
        for key in KEYS:
            message = self._message(only=("nothing",))
            self.unconfirmed.add(self._n)
            pushed: Any = self._producer.push_sync(message, unique=key)
            if pushed.duplicate:
                taken.append(f"{key} by {pushed}")
        return taken
