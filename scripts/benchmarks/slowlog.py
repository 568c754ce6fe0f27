"""Every command that the others sent, from SLOWLOG: how long it took and how much it asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import redis

from .server import DRIVER

SHOWN = 32  # arguments that the server keeps of a command


@dataclass(frozen=True)
class Sent:
    """A command that was carried out; the time is the server's own."""

    words: tuple[str, ...]
    argument_count: int
    took_ms: float

    @property
    def name(self) -> str:
        return self.words[0].upper()

    @property
    def inside_script(self) -> bool:
        """Is it what our scripts send and never a client? Its time is part of its script's."""
        one_id = self.name == "XPENDING" and self.words[3:4] == self.words[4:5]
        return self.name in _INSIDE or one_id

    @property
    def asks_for(self) -> float:
        """Most entries that it may look at; infinity if nothing bounds it."""
        bound = _BOUNDS.get(self.name)
        return 0 if bound is None else bound(self)


_INSIDE = ("XCLAIM", "XTRIM", "XRANGE", "XINFO", "XLEN")


def start(client: redis.Redis) -> None:
    """From now on every command is kept. Not while filling: each XADD would be kept, too, and
    letting go of so many takes the server's time later.
    """
    client.config_set("slowlog-max-len", 1_000_000)
    client.config_set("slowlog-log-slower-than", 0)


def stop(client: redis.Redis) -> None:
    client.config_set("slowlog-log-slower-than", -1)


def forget(client: redis.Redis) -> None:
    client.slowlog_reset()


def sent(client: redis.Redis) -> list[Sent]:
    """What all others have sent, those inside their scripts too, since it was last forgotten."""
    reply = client.connection_pool.make_connection()
    reply.connect()
    try:
        reply.send_command("SLOWLOG", "GET", -1)
        lines = reply.read_response(disable_decoding=True)
    finally:
        reply.disconnect()
    return [
        _sent([word.decode(errors="replace") for word in words], microseconds)
        for _, _, microseconds, words, _, name, *_ in lines
        if name != DRIVER.encode()
    ]


def _sent(words: list[str], microseconds: int) -> Sent:
    count = len(words)
    if count == SHOWN and words[-1].startswith("... ("):
        count += int(words[-1].split("(")[1].split()[0]) - 1
    return Sent(tuple(words), count, microseconds / 1000)


def _after(word: str) -> Callable[[Sent], float]:
    """The number that follows this word; without the word nothing bounds the command."""

    def bound(command: Sent) -> float:
        words = [w.upper() for w in command.words]
        return int(words[words.index(word) + 1]) if word in words else inf

    return bound


def _pending(command: Sent) -> float:
    """XPENDING key group [[IDLE ms] start end count [consumer]]; with IDLE it walks the list."""
    words = [w.upper() for w in command.words]
    if len(words) == 3:
        return 0  # the summary
    return inf if "IDLE" in words else int(words[5])


def _range(command: Sent) -> float:
    """One id, or as many as COUNT says."""
    return 1 if command.words[2] == command.words[3] else _after("COUNT")(command)


def _ids(command: Sent) -> float:
    return command.argument_count


_BOUNDS: dict[str, Callable[[Sent], float]] = {
    "XREADGROUP": _after("COUNT"),
    "XAUTOCLAIM": lambda command: 10 * _after("COUNT")(command),  # looks at ten times as many
    "XPENDING": _pending,
    "XRANGE": _range,
    "XREVRANGE": _range,
    "XACK": _ids,
    "XDEL": _ids,
    "XCLAIM": _ids,
    "XTRIM": _after("LIMIT"),
    "EVALSHA": _ids,
    "EVAL": _ids,
}
