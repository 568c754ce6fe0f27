"""Reader: blocking reads on a connection of their own, which another task can interrupt."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ._link import OUTAGES, Channel, Command, Link, first_error
from ._log import log
from .client import StreamClient, read_command, read_entries

READ_MARGIN_S = 0.7  # how much longer than its block a read may take before it counts as dead
UNBLOCK_PAUSE_S = 0.002
BLOCK_WITHOUT_UNBLOCK_MS = 250  # where an ACL forbids CLIENT ID or CLIENT UNBLOCK


class Reader:
    """Reads ``stream`` for ``group``.

    acks_refused: the acknowledgement that travelled with the last read brought an error.
    """

    def __init__(self, client: StreamClient, stream: str, group: str) -> None:
        self.client = client
        self.stream = stream
        self.group = group
        self.acks_refused = False
        self._channel: Channel | None = None
        self._link: Link | None = None  # that the channel is of
        self._reading = False
        self._unblocker: asyncio.Task[None] | None = None

    def _own_channel(self) -> Channel:
        link = self.client.link()
        if self._channel is None or self._link is not link:
            self._channel, self._link = link.channel(self.client.key(self.stream)), link
        return self._channel

    @property
    def connected(self) -> bool:
        """Is the connection open, as far as is known?"""
        connection = None if self._channel is None else self._channel.connection
        return connection is not None and bool(connection.is_connected)

    async def connect(self) -> None:
        """Open the connection, which ``read`` does by itself. Raises what connecting raises."""
        await self._own_channel().connect()

    async def read(
        self,
        consumer: str,
        count: int,
        block_ms: int,
        acks: Sequence[str],
        on_acked: Callable[[Sequence[str]], None],
    ) -> list[Any]:
        """Raw new entries; [] after ``block_ms``, or early after ``interrupt()``.

        acks: ids to acknowledge in the same round trip; on_acked is called with them as soon as
        that is confirmed, perhaps long before the read ends.
        """
        channel = self._own_channel()
        if channel.connection is not None and channel.client_id is None:
            block_ms = min(block_ms, BLOCK_WITHOUT_UNBLOCK_MS)
        key = self.client.key(self.stream)
        commands: list[Command] = [("XACK", key, self.group, *acks)] if acks else []
        commands.append(read_command(key, self.group, consumer, count, block_ms))

        def on_reply(index: int, reply: Any) -> None:
            if acks and index == 0 and not isinstance(reply, Exception):
                on_acked(acks)

        self._reading = True
        try:
            # An acknowledgement is answered at once, the read perhaps much later.
            replies = await channel.run(
                commands,
                self.client.endpoint.socket_timeout,
                on_reply,
                last_s=block_ms / 1000 + READ_MARGIN_S,
            )
        finally:
            self._reading = False
        first_error(replies[-1:])
        entries = read_entries(replies[-1])
        self.acks_refused = isinstance(replies[0], Exception)
        if not entries:
            first_error(replies)
        return entries

    def interrupt(self) -> None:
        """End a blocked read at once, with an empty result. Call it in the loop's thread."""
        if self._reading and (self._unblocker is None or self._unblocker.done()):
            self._unblocker = asyncio.ensure_future(self._unblock())

    async def _unblock(self) -> None:
        # CLIENT UNBLOCK finds nothing while the read is still on its way: ask until it ends.
        link, key = self.client.link(), self.client.key(self.stream)
        while self._reading and self._channel is not None:
            client_id = self._channel.client_id
            try:
                if client_id is not None and await link.call(key, "CLIENT", "UNBLOCK", client_id):
                    return
            except OUTAGES as error:
                log.debug("CLIENT UNBLOCK failed: %s", error)
                self._channel.client_id = None
                return
            await asyncio.sleep(UNBLOCK_PAUSE_S)

    async def end_broken_read(self) -> None:
        """Make sure that the server no longer serves a read whose reply nobody waits for."""
        channel = self._channel
        if channel is None or channel.client_id is None:
            return
        with contextlib.suppress(ResponseError):  # gone already, or an ACL forbids it
            link, key = self.client.link(), self.client.key(self.stream)
            await link.call(key, "CLIENT", "KILL", "ID", channel.client_id)
        if self._link is link:
            await channel.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._unblocker is not None:
            self._unblocker.cancel()
        channel, self._channel = self._channel, None
        # what an event loop that has ended left open cannot be awaited: it closes with its link
        if channel is not None and (link := self.client.link()) is self._link:
            await link.drop(channel)
