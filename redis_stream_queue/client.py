"""StreamClient: one Redis, its streams, and the low-level stream commands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from redis.exceptions import ResponseError

from ._validate import Maybe, Number, Text, check
from .connection.connected import Connected
from .connection.endpoint import Endpoint, endpoint_from_url, make_endpoint
from .connection.exchange import first_error
from .connection.packing import Command
from .connection.reading import read_command, read_entries, read_timeout_s
from .connection.replies import entry_message, mapping, name_text, pending_entries, text
from .connection.scripts import AUTOCLAIM
from .exceptions import ConfigError
from .later.control import MOST_PAUSE_MS, pause, resume
from .message import PendingEntry, StreamMessage
from .pushing.bulk import push_all, push_one
from .pushing.headers import header_parts
from .pushing.portions import Pushes

if TYPE_CHECKING:
    from .later.state import MessageState


class StreamClient(Connected):
    """A Redis server or cluster, for any number of producers and consumers.

    >>> client = StreamClient(host="localhost")
    >>> client = StreamClient.from_url("redis://localhost:6379/0", prefix="shop")

    host, port, db, username, password, ssl: where Redis is, and who we are there; ssl = TLS.
    client_name: what CLIENT LIST shows.
    prefix: every stream name becomes ``<prefix>_<stream>``.
    max_connections, pool_timeout: size of the shared connection pool, and seconds to wait for a
        free connection (None = for ever).
    socket_keepalive, socket_keepalive_options: TCP keep-alive, and its settings by their numbers in
        the module ``socket``.
    socket_timeout, socket_connect_timeout: seconds; a blocking read is never cut short by them.

    Connecting happens at the first command. Clients of the same server, event loop and process
    share connections; a client may be used in a second ``asyncio.run`` and after a fork.

    stream, group, consumer (of all methods): names, the stream's without the prefix.
    ids, start_id, start, end: of entries, as in ``"1767225600000-0"``.
    max_len: a plain ``MAXLEN ~``, which counts unfinished messages, too; None = nothing is removed.
    headers: texts that travel beside the payload and arrive as ``message.headers``.
    options: other arguments of the constructor, or connection options of redis-py
        (``ssl_ca_certs``).

    Raises ConfigError for settings that cannot work. Methods that talk to Redis raise what redis-py
    raises (``redis.exceptions.RedisError``, a time-out included) and OSError.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int | str = 6379,
        db: int | str = 0,
        username: str | None = None,
        password: str | None = None,
        prefix: str = "",
        max_connections: int = 1000,
        pool_timeout: float | None = 5,
        client_name: str | None = None,
        ssl: bool = False,
        socket_timeout: float | None = 30.0,
        socket_connect_timeout: float | None = 5.0,
        socket_keepalive: bool = True,
        socket_keepalive_options: dict[int, int] | None = None,
    ) -> None:
        self._setup(
            make_endpoint(
                nodes=((host, port),),
                db=db,
                username=username,
                password=password,
                max_connections=max_connections,
                pool_timeout=pool_timeout,
                client_name=client_name,
                ssl=ssl,
                socket_timeout=socket_timeout,
                socket_connect_timeout=socket_connect_timeout,
                socket_keepalive=socket_keepalive,
                socket_keepalive_options=socket_keepalive_options,
            ),
            prefix,
        )

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "", **options: Any) -> Self:
        """Client of a URL.

        url: ``redis://``, ``rediss://`` (TLS), ``unix://``, ``redis+cluster://``,
            ``rediss+cluster://``, ``redis+sentinel://h1:p1,h2:p2/service/db`` or
            ``embedded://[DIR]``.

        ``embedded://DIR`` starts (or joins) a private real server with its data in DIR; without
        DIR a temporary one.

        Raises ConfigError for a URL that cannot be read.
        """
        check("url", url, Text(empty=True, secret=True))
        if url.startswith("embedded://"):
            from .embedded.server import start_or_join

            url = start_or_join(url.removeprefix("embedded://") or None).url
        return cls._of(endpoint_from_url(url, **options), prefix)

    @classmethod
    def from_cluster(
        cls,
        startup_nodes: list[dict[str, Any]],
        password: str | None = None,
        username: str | None = None,
        prefix: str = "",
        **options: Any,
    ) -> Self:
        """Client of a Redis Cluster.

        startup_nodes: one or more of ``{"host": ..., "port": ...}``; the others are found.
        """
        try:
            nodes = tuple((str(n["host"]), n.get("port", 6379)) for n in startup_nodes)
        except (KeyError, TypeError, ValueError, AttributeError):
            nodes = ()
        if not nodes:
            raise ConfigError(
                "startup_nodes must be a list with at least one node, as in "
                f"[{{'host': 'node1', 'port': 6379}}], got a {type(startup_nodes).__name__} that "
                "holds none."
            )
        endpoint = make_endpoint(
            nodes=nodes, password=password, username=username, cluster=True, **options
        )
        return cls._of(endpoint, prefix)

    @classmethod
    def _of(cls, endpoint: Endpoint, prefix: str) -> Self:
        client = cls.__new__(cls)
        client._setup(endpoint, prefix)
        return client

    def twin(self) -> StreamClient:
        """A client of the same server with the same prefix, to be closed by itself."""
        return StreamClient._of(self.endpoint, self.prefix)

    def _setup(self, endpoint: Endpoint, prefix: str) -> None:
        check("prefix", prefix, Text(empty=True))
        super().__init__(endpoint, prefix)

    # -- writing -------------------------------------------------------------------------------

    async def push(
        self,
        stream: str,
        data: bytes,
        max_len: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """XADD one entry; returns its id.

        data: the payload's bytes, as a serializer makes them.
        Source: https://redis.io/docs/latest/commands/xadd/
        """
        push = Pushes([data], header_parts(headers))
        return text(await push_one(self.link(), self.key(stream), push, max_len))

    async def push_many(
        self,
        stream: str,
        items: Sequence[bytes],
        max_len: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """XADD many entries, a thousand in one step; returns their ids in order.

        items: the payloads' bytes. headers: go with each of them.

        On an error some of them may have been added.
        Source: https://redis.io/docs/latest/commands/xadd/
        """
        results = await self.push_all(stream, Pushes(items, header_parts(headers)), max_len)
        return [text(reply) for reply in first_error(results)]

    async def push_all(
        self, stream: str, pushes: Pushes, max_len: int | None = None, link: Any = None
    ) -> list[Any]:
        """Add messages; returns an id (bytes) or an exception for each.

        pushes: their payloads and headers. link: instead of this client's.
        """
        key = self.key(stream)
        results = await push_all(link or self.link(), key, pushes)
        if max_len and pushes.payloads:
            await self.command("XTRIM", stream, "MAXLEN", "~", max_len)
        return results

    async def create_group(self, stream: str, group: str, start_id: str = "0") -> None:
        """XGROUP CREATE with MKSTREAM; an existing group is left as it is.

        start_id: entries behind this one are for the group; ``"0"`` = all, ``"$"`` = new ones only.
        Source: https://redis.io/docs/latest/commands/xgroup-create/
        """
        try:
            await self.command("XGROUP CREATE", stream, group, start_id, "MKSTREAM")
        except ResponseError as error:
            if str(error).startswith("BUSYGROUP"):
                return
            # Out of memory, say: what is there already need not be created.
            if group not in [info["name"] for info in await self.group_info(stream)]:
                raise

    async def ack(self, stream: str, group: str, *ids: str) -> int:
        """XACK; returns how many were pending.

        Source: https://redis.io/docs/latest/commands/xack/
        """
        return int(await self.command("XACK", stream, group, *ids)) if ids else 0

    # -- control -------------------------------------------------------------------------------

    async def pause(
        self, stream: str, group: str | None = None, *, for_s: float | timedelta | None = None
    ) -> None:
        """Pause a stream: on no host a message of it is started any more; what runs ends.

        group: only this one; None = all groups. for_s: seconds, or a ``timedelta``, 366 days at
        most: then the pause ends by itself; None = until ``resume``.
        Raises ConfigError for a wrong time or group.
        """
        check("group", group, Maybe(Text()))
        await pause(self.link(), self.key(stream), group, _pause_ms(for_s))

    async def resume(self, stream: str, group: str | None = None) -> bool:
        """End the pause of all groups (None) or of one; returns False if there was none.

        Raises ConfigError for a wrong group.
        """
        check("group", group, Maybe(Text()))
        return await resume(self.link(), self.key(stream), group)

    async def cancel(self, stream: str, message_id: str) -> str | None:
        """Cancel a message, wherever it is unfinished: it does not start any more.

        message_id: of an entry, or of a scheduled message.
        Returns the state that it had: ``"scheduled"``, ``"waiting"``, ``"retrying"`` or
        ``"running"``; None if it is done, dead or unknown. One that runs is cancelled
        (async) or interrupted (a plain ``@per_message`` handler of a pool) within a moment; a plain
        handler of a StreamConsumer and a batch handler go on to their end, and no retry follows.
        Raises ConfigError for what is no id.
        """
        from .later.state import cancel  # now: no pool needs it to start

        return await cancel(self.link(), self.key(stream), message_id) or None

    async def find(self, stream: str, message_id: str) -> MessageState | None:
        """Where a message is; None if no message has this id any more.

        message_id: of an entry, or of a scheduled message.
        Raises ConfigError for what is no id.
        """
        from .later.state import find

        return await find(self.link(), self.key(stream), message_id)

    # -- reading -------------------------------------------------------------------------------

    async def read(
        self, stream: str, group: str, consumer: str, count: int, block_ms: int
    ) -> list[StreamMessage]:
        """XREADGROUP of new entries, with their payloads as raw bytes.

        count: most of them. block_ms: milliseconds to wait for one; 0 = do not wait.

        Never retried by itself: a reply that was lost leaves its entries pending.
        Source: https://redis.io/docs/latest/commands/xreadgroup/
        """
        key = self.key(stream)
        command = read_command(key, group, consumer, count, block_ms)
        timeout_s = read_timeout_s(self.endpoint.socket_timeout, block_ms)
        [reply] = first_error(await self.link().run(key, [command], timeout_s))
        return [entry_message(entry, "data", 1) for entry in read_entries(reply)]

    async def autoclaim(
        self,
        stream: str,
        group: str,
        consumer: str,
        min_idle_ms: int,
        count: int,
        max_passes: int | None = None,
    ) -> list[StreamMessage]:
        """Take over idle entries for ``consumer``, following the cursor to the end.

        min_idle_ms: milliseconds since they were read or claimed. count: entries per pass.
        max_passes: most passes, None = all.

        Entries that were deleted from the stream are acknowledged.
        Source: https://redis.io/docs/latest/commands/xautoclaim/
        """
        cursor, claimed, passes = "0-0", [], 0
        while max_passes is None or passes < max_passes:
            passes += 1
            reply, entries = await self.script(
                AUTOCLAIM, stream, group, consumer, min_idle_ms, cursor, count
            )
            claimed += [entry_message([i, fields], "data", n) for i, n, fields in entries]
            if text(reply) in ("0-0", cursor):
                break
            cursor = text(reply)
        return claimed

    async def pending_range(
        self,
        stream: str,
        group: str,
        count: int,
        consumer: str | None = None,
        *,
        start: str = "-",
        end: str = "+",
    ) -> list[PendingEntry]:
        """Lines of XPENDING in the order of ids.

        count: most of them. consumer: only what this one holds; None = all.
        start, end: first and last id; ``start="(<id>"`` goes on after an id.
        Source: https://redis.io/docs/latest/commands/xpending/
        """
        names = () if consumer is None else (consumer,)
        lines = await self.command("XPENDING", stream, group, start, end, count, *names)
        return pending_entries(lines)

    async def fetch_by_ids(self, stream: str, ids: Sequence[str]) -> list[StreamMessage]:
        """The entries with these ids that still exist, in one round trip."""
        if not ids:
            return []
        key = self.key(stream)
        commands: list[Command] = [("XRANGE", key, i, i) for i in ids]
        replies = first_error(await self.link().run(key, commands, self.endpoint.socket_timeout))
        return [entry_message(entries[0], "data", 0) for entries in replies if entries]

    async def stream_len(self, stream: str) -> int:
        """XLEN; 0 for a stream that does not exist.

        Source: https://redis.io/docs/latest/commands/xlen/
        """
        return int(await self.command("XLEN", stream))

    async def group_info(self, stream: str) -> list[dict[str, Any]]:
        """XINFO GROUPS, one dict a group; empty for a stream that does not exist.

        Source: https://redis.io/docs/latest/commands/xinfo-groups/
        """
        return await self._info("XINFO GROUPS", stream)

    async def consumer_info(self, stream: str, group: str) -> list[dict[str, Any]]:
        """XINFO CONSUMERS, one dict a consumer; empty for a stream that does not exist.

        Source: https://redis.io/docs/latest/commands/xinfo-consumers/
        """
        return await self._info("XINFO CONSUMERS", stream, group)

    async def _info(self, name: str, stream: str, *args: str) -> list[dict[str, Any]]:
        try:
            return [mapping(item, name_text) for item in await self.command(name, stream, *args)]
        except ResponseError as error:
            if "no such key" in str(error).lower():
                return []
            raise


def check_client(client: Any) -> None:
    """Raise ConfigError for anything but a StreamClient, a URL for example."""
    if not isinstance(client, StreamClient):
        raise ConfigError(
            f"client must be a StreamClient, got a {type(client).__name__}. "
            "Make one with StreamClient.from_url('redis://localhost:6379/0')."
        )


def _pause_ms(for_s: float | timedelta | None) -> int:
    """0 = without an end."""
    if for_s is None:
        return 0
    seconds = for_s.total_seconds() if isinstance(for_s, timedelta) else for_s
    check("for_s", seconds, Number(0, above=True, most=MOST_PAUSE_MS / 1000))
    return math.ceil(seconds * 1000)
