"""The master's messages to a worker, and what of them the worker has still to carry out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from ...delivery.session import Session
from ..protocol import AskForWork, Cancel, Declined, Drain, Message, NoWork, Pause, Resume, Take

ANSWER_WAIT_S = 0.1  # how long a worker waits for an answer when it asks for offers


class Orders:
    """The master's orders to the worker of this session.

    takes: offers to carry out. draining, paused: start nothing more. handling: a batch is being
    handled. room_beside: how many messages can run beside those of the batch; set while the worker
    asks for them. answered: set when a message of the master has come; whoever looks at the orders,
    to wait for others, clears it first.
    """

    def __init__(self, session: Session, send: Callable[[Message], None]) -> None:
        self.takes: list[Take] = []
        self.draining = False
        self.paused = False
        self.handling = False
        self.room_beside = 0
        self.answered = asyncio.Event()
        self._session = session
        self._send = send
        self._taken = 0  # offers that have arrived

    @property
    def start_nothing(self) -> bool:
        """May the worker start no message now?"""
        return self.draining or self.paused

    @property
    def put_off_reads(self) -> bool:
        """Is there an order to carry out before more is read?"""
        return self.start_nothing or bool(self.takes)

    def heard(self, message: Message) -> None:
        """Act on a message from the master."""
        if isinstance(message, Take):
            self._taken += 1
            fits = self.room_beside > 0 and not message.alone
            if self.start_nothing or (self.handling and not fits):
                self._send(Declined([offer[0] for offer in message.offers]))
            else:
                self.takes.append(message)
                self.answered.set()
                self._session.reader.interrupt()
        elif isinstance(message, NoWork):
            self.answered.set()
        elif isinstance(message, Pause | Resume):
            self.paused = isinstance(message, Pause)
            self.answered.set()
            if self.paused:
                self._session.stop_starting()
                self._session.reader.interrupt()
        elif isinstance(message, Cancel):
            self._session.cancel(message.id)
        elif isinstance(message, Drain):
            self.drain()

    def drain(self) -> None:
        """Finish what runs, give back the rest, start nothing more."""
        self.draining = True
        self.answered.set()
        self._session.stop_starting()
        self._session.reader.interrupt()

    async def ask(self, beside: int = 0) -> bool:
        """Ask the master for offers; returns whether any came. beside: see AskForWork."""
        self.answered.clear()
        self._send(AskForWork(self._taken, beside))
        await self._until_answered(ANSWER_WAIT_S)
        return bool(self.takes)

    async def wait(self, longest_s: float) -> None:
        """Wait until ``answered`` is set; not at all when draining."""
        if not self.draining:
            await self._until_answered(longest_s)

    async def _until_answered(self, longest_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self.answered.wait()
