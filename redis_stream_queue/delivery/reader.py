"""Reader: blocking reads on a connection of their own, which another task can interrupt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .._log import logger
from ..client import StreamClient
from ..connection.exchange import OUTAGES, first_error
from ..connection.link import DedicatedConnection
from ..connection.packing import Command
from ..connection.reading import Made, make_name_command, read_command, read_entries
from .portion import Portion

log = logger(__name__)

READ_MARGIN_S = 0.7  # how much longer than its block a read may take before it counts as dead
UNBLOCK_PAUSE_S = 0.002  # before CLIENT UNBLOCK is sent again, doubled each time
MOST_UNBLOCK_PAUSE_S = 0.05
BLOCK_WITHOUT_UNBLOCK_MS = 250  # where an ACL forbids CLIENT ID or CLIENT UNBLOCK


class Reader:
    """Reads ``stream`` for ``group``.

    acks_refused: the acknowledgement that travelled with the last read brought an error.
    lost_reply: the last read was given up, although the server answers: what it delivered, if it
    did, never arrived.
    name_made: 1 = the last read had to make the consumer's name; an error = that cannot be told;
    None = it was not asked for.
    portion: how many to ask for at once.
    """

    def __init__(self, client: StreamClient, stream: str, group: str) -> None:
        self.client = client
        self.stream = stream
        self.group = group
        self.acks_refused = False
        self.lost_reply = False
        self.name_made: Made = None
        self.portion = Portion()
        self._dedicated: DedicatedConnection | None = None
        self._reading = False
        self._server_answers = False
        self._unblocker: asyncio.Task[None] | None = None

    def _own(self) -> DedicatedConnection:
        link = self.client.link()
        if self._dedicated is None or self._dedicated.link is not link:
            self._dedicated = link.dedicated(self.client.key(self.stream))
            self._dedicated.on_late = self.interrupt
        return self._dedicated

    @property
    def connected(self) -> bool:
        """Is the connection open, as far as is known?"""
        wire = None if self._dedicated is None else self._dedicated.wire
        return wire is not None and not wire.ended

    async def connect(self) -> None:
        """Open the connection, which ``read`` does by itself. Raises what connecting raises."""
        await self._own().connect()

    async def read(
        self,
        consumer: str,
        count: int,
        block_ms: int,
        acks: Sequence[str],
        on_acked: Callable[[Sequence[str]], None],
        look_at_name: bool = False,
    ) -> list[Any]:
        """Up to ``count`` raw new entries; [] after ``block_ms``, or early after ``interrupt()``.

        acks: ids to acknowledge in the same round trip; on_acked is called with them as soon as
        that is confirmed, perhaps long before the read ends. look_at_name: see ``name_made``.
        """
        self.name_made = None
        dedicated = self._own()
        if dedicated.connection is not None and dedicated.client_id is None:
            block_ms = min(block_ms, BLOCK_WITHOUT_UNBLOCK_MS)
        key = self.client.key(self.stream)
        commands: list[Command] = [("XACK", key, self.group, *acks)] if acks else []
        if look_at_name:
            commands.append(make_name_command(key, self.group, consumer))
        commands.append(read_command(key, self.group, consumer, count, block_ms))

        def on_reply(index: int, reply: Any) -> None:
            if look_at_name and index == len(commands) - 2:
                self.name_made = reply
            elif not isinstance(reply, Exception):
                on_acked(acks)

        connection, wire = dedicated.connection, dedicated.wire
        received = 0 if wire is None else wire.received
        self._reading, self._server_answers, self.lost_reply = True, False, False
        try:
            # An acknowledgement is answered at once, the read perhaps much later.
            replies = await dedicated.run(
                commands,
                self.client.endpoint.socket_timeout,
                on_reply,
                last_s=block_ms / 1000 + READ_MARGIN_S,
            )
        except OUTAGES as error:
            self.portion.broke(count)
            if not (isinstance(error, RedisTimeoutError) and self._server_answers):
                raise
            log.debug("no reply to a read of %s, although Redis answers", self.stream)
            self.lost_reply = True
            return []
        finally:
            self._reading = False
        if isinstance(replies[-1], Exception):
            raise replies[-1]
        entries = read_entries(replies[-1])
        if wire is not None and dedicated.connection is connection:
            self.portion.arrived(len(entries), wire.received - received)
        self.acks_refused = bool(acks) and isinstance(replies[0], Exception)
        if self.acks_refused and not entries:
            raise replies[0]
        return entries

    def interrupt(self) -> None:
        """End a blocked read at once, with an empty result. Call it in the loop's thread."""
        if self._reading and (self._unblocker is None or self._unblocker.done()):
            self._unblocker = asyncio.ensure_future(self._unblock())

    async def _unblock(self) -> None:
        # CLIENT UNBLOCK finds nothing while the read is still on its way: ask until it ends.
        pause_s = UNBLOCK_PAUSE_S
        while self._reading and self._dedicated is not None:
            try:
                if self._dedicated.client_id is not None and await self._client("UNBLOCK"):
                    return
            except OUTAGES as error:
                log.debug("CLIENT UNBLOCK failed: %s", error)
                self._dedicated.client_id = None
                return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MOST_UNBLOCK_PAUSE_S)

    async def _client(self, verb: str, *what: str) -> bool:
        """CLIENT KILL or UNBLOCK of the reading connection; False if it is not there.

        Its number belongs to one life of the server: in another it is a stranger's.
        """
        dedicated = self._dedicated
        assert dedicated is not None
        command = ("CLIENT", verb, *what, dedicated.client_id)
        timeout_s = self.client.endpoint.socket_timeout
        key = self.client.key(self.stream)
        replies = await self.client.link().run(key, [command], timeout_s, dedicated.life)
        first_error(replies)
        self._server_answers = bool(replies)
        return bool(replies and replies[0])

    async def end_broken_read(self) -> None:
        """Make sure that the server no longer serves a read whose reply nobody waits for."""
        dedicated = self._dedicated
        if dedicated is None or dedicated.client_id is None:
            return
        with contextlib.suppress(ResponseError):  # an ACL forbids it
            await self._client("KILL", "ID")
        if dedicated.link is self.client.link():
            await dedicated.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._unblocker is not None:
            self._unblocker.cancel()
        dedicated, self._dedicated = self._dedicated, None
        # what an event loop that has ended left open cannot be awaited: it closes with its link
        if dedicated is not None and dedicated.link is self.client.link():
            await dedicated.link.drop(dedicated)
