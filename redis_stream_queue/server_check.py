"""Is this server one that we can work with? Asked once at start, answered in one sentence."""

from __future__ import annotations

import re

from redis.exceptions import NoPermissionError, ResponseError

from ._link import Command
from ._scripts import RENEW
from .client import StreamClient
from .exceptions import ConfigError, UnsupportedServer

OLDEST = (6, 2)
NEEDED_ACL = (
    "+@stream +@connection +ping +type +eval +evalsha +info "
    "and access to the keys of the stream and its dead-letter stream"
)


async def check_server(client: StreamClient, stream: str) -> None:
    """Raise UnsupportedServer for a server that is too old or forbids scripts."""
    link, key = client.link(), client.key(stream)
    try:
        version = _version(await link.call(key, "INFO", "server"))
    except ResponseError:  # an ACL may forbid INFO; then the commands themselves must tell
        version = None
    if version is not None and version < OLDEST:
        raise UnsupportedServer(
            f"{client.endpoint} is Redis {'.'.join(map(str, version))}, but 6.2 or newer (or "
            "Valkey 7.2 or newer) is needed: consumer recovery relies on XAUTOCLAIM and friends. "
            "Upgrade the server."
        )
    for reply in await link.run(key, _probes(key), client.endpoint.socket_timeout):
        if isinstance(reply, Exception) and is_forbidden(reply):
            raise forbidden(client, reply)
    try:
        await client.script(RENEW, stream, "", "")
    except ResponseError as error:
        if is_forbidden(error):
            raise forbidden(client, error) from None


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
    ]


async def check_stream(client: StreamClient, stream: str) -> None:
    """Raise ConfigError where ``stream`` is a key of another type."""
    key = client.key(stream)
    kind = (await client.link().call(key, "TYPE", key)).decode()
    if kind not in ("none", "stream"):
        raise ConfigError(
            f"key {key!r} on {client.endpoint} is a {kind}, not a stream. Choose another stream "
            "name or a prefix, or remove that key."
        )


def is_forbidden(error: Exception) -> bool:
    """Does an ACL refuse the command or the key?"""
    return isinstance(error, NoPermissionError) or "permission" in str(error).lower()


def forbidden(client: StreamClient, error: Exception) -> UnsupportedServer:
    """What to tell the user when an ACL refuses a command."""
    return UnsupportedServer(
        f"{client.endpoint} refuses a command that consumers cannot do without ({error}). "
        f"Allow it for this user, for example: ACL SETUSER name {NEEDED_ACL}."
    )


def _version(info: bytes | str) -> tuple[int, ...] | None:
    text = info.decode(errors="replace") if isinstance(info, bytes) else str(info)
    found = re.search(r"redis_version:(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None
