"""A proxy before a real server that answers some commands with nonsense, and all others rightly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import hiredis

from .faultproxy import FaultProxy


@dataclass(frozen=True)
class Lie:
    """What a client gets in place of a reply (None = the right one), before and after it; silent:
    and nothing more, ever."""

    reply: bytes | None = None
    before: bytes = b""
    after: bytes = b""
    silent: bool = False


NONSENSE = {
    "OK": Lie(b"+OK\r\n"),
    "nil": Lie(b"$-1\r\n"),
    "a number": Lie(b":7\r\n"),
    "a text": Lie(b"$4\r\nwhat\r\n"),
    "an empty list": Lie(b"*0\r\n"),
    "a list of the wrong shape": Lie(b"*2\r\n*1\r\n*1\r\n:1\r\n+a\r\n"),
    "a list of nils": Lie(b"*2\r\n$-1\r\n*-1\r\n"),
    "a map": Lie(b"%1\r\n+a\r\n:1\r\n"),
    "a truth": Lie(b"#t\r\n"),
    "a huge number": Lie(b":9223372036854775807\r\n"),
    "a number that is too large": Lie(b":99999999999999999999999\r\n"),
    "a big number": Lie(b"(" + b"9" * 5000 + b"\r\n"),
    "NaN": Lie(b",nan\r\n"),
    "what is not UTF-8": Lie(b"$3\r\n\xff\xfe\x00\r\n"),
    "an unknown error": Lie(b"-WHAT is this\r\n"),
    "a very deep list": Lie(b"*1\r\n" * 5000 + b":1\r\n"),
    "a wrong length": Lie(b"$3\r\nabcdef\r\n"),
    "HTTP": Lie(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "one reply too many": Lie(after=b"+OK\r\n"),
    "half a reply": Lie(b"*2\r\n$10\r\nab", silent=True),
    "no reply": Lie(b"", silent=True),
}


class LyingProxy(FaultProxy):
    """Between clients and one server.

    lies: by the command's first word; "*" = of all others, but those that begin a connection.
    carries_out: does the server get a command whose reply is another? told: so many lies.
    """

    def __init__(self, target: tuple[str, int] | str) -> None:
        super().__init__(target)
        self.lies: dict[str, Lie] = {}
        self.carries_out = True
        self.told = 0

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self.target, str):
            replies, server = await asyncio.open_unix_connection(self.target)
        else:
            replies, server = await asyncio.open_connection(*self.target)
        asked: asyncio.Queue[tuple[Lie | None, bool]] = asyncio.Queue()
        pumps = [
            asyncio.create_task(self._ask(reader, server, asked)),
            asyncio.create_task(self._answer(replies, writer, asked)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            server.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        asked: asyncio.Queue[tuple[Lie | None, bool]],
    ) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                lie = self._lie(command)
                passes = lie is None or self.carries_out or lie.reply is None
                if passes:
                    server.write(hiredis.pack_command(tuple(command)))
                asked.put_nowait((lie, passes))
            await server.drain()

    def _lie(self, command: list[Any]) -> Lie | None:
        name = command[0].decode().upper()
        if name in ("PING", "HELLO", "AUTH", "SELECT", "CLIENT"):
            return self.lies.get(name)
        return self.lies.get(name, self.lies.get("*"))

    async def _answer(
        self,
        replies: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: asyncio.Queue[tuple[Lie | None, bool]],
    ) -> None:
        while True:
            lie, passes = await asked.get()
            reply = await _raw_reply(replies) if passes else b""
            if lie is not None:
                self.told += 1
                reply = lie.before + (reply if lie.reply is None else lie.reply) + lie.after
            writer.write(reply)
            await writer.drain()
            if lie is not None and lie.silent:
                await asyncio.Event().wait()


async def _raw_reply(reader: asyncio.StreamReader) -> bytes:
    """One reply of RESP2 as it came."""
    line = await reader.readuntil(b"\r\n")
    if line[:1] == b"$" and int(line[1:]) >= 0:
        return line + await reader.readexactly(int(line[1:]) + 2)
    if line[:1] == b"*":
        return line + b"".join([await _raw_reply(reader) for _ in range(int(line[1:]))])
    return line
