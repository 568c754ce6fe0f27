"""Is this server one that we can work with? What is found is a value: start-up ends with it or logs
it, others may show it in their way. Another finding is another function here."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.packing import Command
from ..connection.refusals import is_forbidden
from ..connection.replies import info_lines, mapping
from ..connection.scripts import RENEW
from ..exceptions import ConfigError, UnsupportedServer

OLDEST = (6, 2)
FULL = 0.9  # share of maxmemory from which on somebody should know
BACKLOG_RIGHTS = "+eval +evalsha +xlen +xrange +xinfo|groups"


class Finding(NamedTuple):
    """Something about a server or a key that somebody should know; as text it is one or two
    sentences.

    name: which finding, the same in each version of ours (``eviction``).
    severity: ``fatal`` = nothing can work, ``serious`` = it works, and may lose messages one day;
        ``hint`` = good to know.
    what: what was found, naming the server; why: why that hurts, "" where it says so itself.
    remedy: what to do, a sentence.
    """

    name: str
    severity: Literal["fatal", "serious", "hint"]
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return f"{self.what}{why}. {self.remedy}".rstrip()


# -- what cannot work ------------------------------------------------------------------------------


async def check_server(client: StreamClient, stream: str) -> None:
    """Raise UnsupportedServer for a server that is too old or forbids scripts."""
    if found := await unusable(client, stream):
        raise UnsupportedServer(str(found))


async def check_stream(client: StreamClient, stream: str) -> None:
    """Raise ConfigError where ``stream`` is a key of another type."""
    if found := await wrong_key(client, stream):
        raise ConfigError(str(found))


async def unusable(client: StreamClient, stream: str) -> Finding | None:
    """Why no consumer can work with this server: it is too old, or refuses what we need."""
    link, key = client.link(), client.key(stream)
    try:
        version = _version(await link.call(key, "INFO", "server"))
    except ResponseError:  # an ACL may forbid INFO; then the commands themselves must tell
        version = None
    if version is not None and version < OLDEST:
        return Finding(
            "version",
            "fatal",
            f"{client.endpoint} is Redis {'.'.join(map(str, version))}, but 6.2 or newer (or "
            "Valkey 7.2 or newer) is needed",
            "consumer recovery relies on XAUTOCLAIM and friends",
            "Upgrade the server.",
        )
    replies = await link.run(key, _probes(key), client.endpoint.socket_timeout)
    refused = [r for r in replies if isinstance(r, Exception) and is_forbidden(r)]
    if refused:
        return forbidden(client, *refused)
    try:
        await client.script(RENEW, stream, "", "")
    except ResponseError as error:
        if is_forbidden(error):
            return forbidden(client, error)
    return None


def _probes(key: str) -> list[Command]:
    """Commands that change nothing: each has an id that is none, which an ACL looks at later."""
    return [
        ("XREADGROUP", "GROUP", "-", "-", "STREAMS", key, "no-id"),
        ("XACK", key, "-", "no-id"),
        ("XCLAIM", key, "-", "-", 0, "no-id"),
        ("XPENDING", key, "-", "no-id", "+", 1),
        ("XADD", key, "no-id", "f", "v"),
        ("XRANGE", key, "no-id", "+"),
        ("XTRIM", key, "MINID", "no-id"),
        ("XGROUP", "CREATECONSUMER", key, "", ""),
        ("EVAL", "return 1", 1, key),
    ]


async def wrong_key(client: StreamClient, stream: str) -> Finding | None:
    """Is ``stream`` a key of another type?"""
    key = client.key(stream)
    kind = (await client.link().call(key, "TYPE", key)).decode()
    if kind in ("none", "stream"):
        return None
    return Finding(
        "key_type",
        "fatal",
        f"key {key!r} on {client.endpoint} is a {kind}, not a stream",
        "",
        "Choose another stream name or a prefix, or remove that key.",
    )


def forbidden(client: StreamClient, *errors: Exception) -> Finding:
    """Commands are refused for good: only what is missing."""
    for error in errors:
        if "unknown command" in str(error).lower():
            return Finding(
                "command_missing",
                "fatal",
                f"{client.endpoint} does not know a command that consumers cannot do without "
                f"({str(error).partition(', with args')[0].strip()})",
                "it was renamed or disabled there (rename-command), or something on the way does "
                "not pass it on",
                "",
            )
    rights = list(dict.fromkeys(map(missing_right, errors)))
    return Finding(
        "permission",
        "fatal",
        f"{client.endpoint} refuses a command that consumers cannot do without ({errors[0]})",
        "",
        f"Allow it for this user: ACL SETUSER name {' '.join(rights)}",
    )


# -- what may cost messages one day ----------------------------------------------------------------


async def worries(client: StreamClient, stream: str) -> list[Finding]:
    """What may cost messages one day, although this server works now."""
    commands: list[Command] = [
        ("INFO", "memory"),
        ("INFO", "persistence"),
        ("CONFIG", "GET", "save"),
    ]
    memory, persistence, save = await client.link().run(
        client.key(stream), commands, client.endpoint.socket_timeout
    )
    where = str(client.endpoint)
    found = (
        _evicts(where, info_lines(memory)) or _nearly_full(where, info_lines(memory)),
        _forgets(where, info_lines(persistence), _config(save)),
    )
    return [finding for finding in found if finding is not None]


def _evicts(where: str, memory: dict[str, str]) -> Finding | None:
    policy = memory.get("maxmemory_policy", "")
    if not policy.startswith(("allkeys-", "volatile-")):
        return None
    return Finding(
        "eviction",
        "serious",
        f"{where} evicts keys when its memory is full (maxmemory-policy {policy})",
        "that can delete a whole stream with its groups",
        "Set maxmemory-policy noeviction.",
    )


def _nearly_full(where: str, memory: dict[str, str]) -> Finding | None:
    used, most = int(memory.get("used_memory", "0")), int(memory.get("maxmemory", "0"))
    if not most or used <= FULL * most:
        return None
    what = f"uses {used / most:.0%} of its maxmemory ({size(most)})"
    if used > 2 * most:  # a share would be a strange number
        what = f"uses {size(used)} of memory, and may use {size(most)} (maxmemory)"
    return Finding(
        "memory",
        "serious",
        f"{where} {what}",
        "when it is full, nothing can be pushed and no dead letter written",
        "Trim streams or raise maxmemory.",
    )


def size(count: int) -> str:
    """So many bytes, in words."""
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count} byte{'s'[: count != 1]}"


def _forgets(where: str, persistence: dict[str, str], saves: str | None) -> Finding | None:
    if persistence.get("aof_enabled") != "0" or saves != "":
        return None
    return Finding(
        "persistence",
        "serious",
        f"{where} keeps nothing on disk (appendonly no, save '')",
        "a restart loses every message",
        "Set appendonly yes.",
    )


def _config(reply: Any) -> str | None:
    """The one value of CONFIG GET; None where it cannot be asked for (managed servers)."""
    if isinstance(reply, Exception) or not reply:
        return None
    [value] = mapping(reply).values()
    return str(value)


def no_backlog(client: StreamClient, error: ResponseError) -> Exception:
    """Why the backlog of a stream cannot be told."""
    if not is_forbidden(error):
        return error
    return UnsupportedServer(
        f"max_backlog: {client.endpoint} does not let this user see what is unfinished ({error}). "
        f"Allow it: ACL SETUSER name {missing_right(error, BACKLOG_RIGHTS)}"
    )


def missing_right(error: Exception, otherwise: str = "+eval +evalsha") -> str:
    """The part of an ACL line that is missing; otherwise: where the server does not say it."""
    if found := re.search(r"'([a-z|]+)' command", str(error)):
        return f"+{found[1]}"
    if "key" in str(error):
        return "with access to the keys of the stream and its dead-letter stream (~KEY ~DLQ_KEY)"
    return otherwise


def _version(info: Any) -> tuple[int, ...] | None:
    found = re.match(r"(\d+)\.(\d+)", info_lines(info).get("redis_version", ""))
    return (int(found[1]), int(found[2])) if found else None
