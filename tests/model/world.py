"""Everything in one example: the server, its processes, and what the rules share."""

from __future__ import annotations

from typing import Any

import redis

from redis_stream_queue import ConsumerConfig, DeadLetterQueue, StreamClient, StreamProducer
from redis_stream_queue.connection.scripts import PRUNE
from redis_stream_queue.pool.scoreboard import Scoreboard

from .actors import MIN_IDLE_MS, Actor, Alone, Hand
from .book import Book
from .facts import DLQ, GROUP, STREAM
from .pools import Pool, PoolWorker
from .process import Clock, Late, Process

RETRY_MS = 3000
POOL_OF_SLOT = {0: 0, 1: 0, 2: 1}
ALONE = 3
SLOTS = (0, 1, 2, ALONE)


class World:
    """Everything in one example."""

    def __init__(
        self,
        server: redis.Redis,
        url: str,
        scoreboards: list[Scoreboard],
        clock: Clock,
        **shape: Any,
    ) -> None:
        self.server = server
        self.url = url
        self.scoreboards = scoreboards
        self.clock = clock
        self.lives = [0, 1000]
        self.style: str = shape["style"]
        self.batch_size: int | None = shape["batch_size"]
        self.max_deliveries: int = shape["max_deliveries"]
        self.destroys: int = shape["destroys"]
        self.max_stream_size = 2
        self.late: list[Late] = []
        self.processes: list[Process] = []
        self.book = Book(server, self.max_deliveries, min(MIN_IDLE_MS))
        self.actors: dict[int, Actor] = {}
        self.alone_lives = 0
        self.admin = self.process("admin")
        client = StreamClient.from_url(url)
        self.producer = StreamProducer(client, STREAM, group=GROUP)
        self.letters = DeadLetterQueue(client, DLQ)
        self.admin.run(self.producer.ensure_group)
        self.pools = [Pool(self, 0), Pool(self, 1)]
        self.next_uid = 0

    def consumer_config(self, min_idle_ms: int) -> ConsumerConfig:
        return ConsumerConfig(
            GROUP,
            dlq_stream=DLQ,
            batch_size=self.batch_size or 3,
            block_ms=0,
            min_idle_claim_ms=min_idle_ms,
            max_deliveries=self.max_deliveries,
            retry_delay_ms=RETRY_MS,
        )

    def process(self, name: str) -> Process:
        process = Process(name, self.clock, self.late, self._executed)
        self.processes.append(process)
        return process

    def _executed(self, process: Process, command: Any, reply: Any) -> None:
        if command[:2] == ("XGROUP", "CREATE") and not isinstance(reply, Exception):
            self.book.group_created(command[4])
        if PRUNE.sha in command and reply == 0:
            self.book.pruned.update(command[5:])
        for actor in self.actors.values():
            if actor.process is process:
                actor.executed(command)

    def actor(self, slot: int) -> Actor:
        """Who lives in this slot; a new life where nobody does."""
        actor = self.actors.get(slot)
        if actor is None or not actor.alive:
            if slot == ALONE:
                self.alone_lives += 1
                actor = Alone(self, self.alone_lives)
            else:
                number = POOL_OF_SLOT[slot]
                actor = PoolWorker(self, self.pools[number], slot)
                self.lives[number] = actor.pool.lives
            self.actors[slot] = actor
        return actor

    def hands(self) -> list[Hand]:
        return [h for actor in self.living() if actor.process.runs for h in actor.hands]

    def amid_a_batch(self) -> list[Actor]:
        """Who holds more than what runs."""
        some = dict.fromkeys(hand.actor for hand in self.hands())
        return [actor for actor in some if actor.held() > {e.entry.id for e in actor.running()}]

    def living(self) -> list[Actor]:
        return [a for slot in SLOTS if (a := self.actors.get(slot)) and a.alive]

    def told(self) -> list[Actor]:
        return [a for a in self.living() if a.told and not a.at_work]

    def free(self) -> list[int]:
        """Slots where a turn would do something."""
        return [
            slot
            for slot in SLOTS
            if (actor := self.actors.get(slot)) is None
            or not actor.alive
            or not actor.at_work
            or actor.process.stopped
            or actor.told
        ]

    def dispose(self) -> None:
        for process in self.processes:
            process.dispose()
