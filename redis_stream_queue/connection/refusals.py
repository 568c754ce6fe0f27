"""What an error of Redis means: wait until it passes, or say why it cannot work.

The one place that makes sentences of such errors; start-up and the command lines say them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Sequence
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from .. import _exits
from .._exits import Failure
from .._names import kind_of
from .endpoint import Endpoint
from .replies import text
from .shapes import WrongReplyError
from .tls import tls_trouble

URL_FORM = "Check --url or REDIS_URL (form: redis://user:password@host:port/db)."
PROBE_S = 2.0  # how long a probe of what answers there may take
SPEAKS_FIRST_S = 0.2  # a server in protected mode sends its refusal within this time

_OF_SCRIPT = re.compile(r"\.? script: (?:[0-9a-f]{40}, )?on @user_script:\d+\.?$")
_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# (Those that redis-py has no class for, and all of them where a script passes them on.)
_PASSING_WORDS = (
    "BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM ", "READONLY",
    "TRYAGAIN", "instance state changed", "max number of clients",
)  # fmt: skip


class WrongKind(ResponseError):
    """WRONGTYPE, and which key it is about. found: what is there."""

    def __init__(self, key: str, found: str = "something else") -> None:
        self.key = key
        self.what = (
            f"the key {key!r} holds {found}, and not a {kind_of(key)}: others have written it"
        )
        self.remedy = "Delete it, or give it another name (RENAME)"
        super().__init__(f"WRONGTYPE {self.what}. {self.remedy}")


def is_wrong_kind(reply: Any) -> bool:
    """Does a key of the command hold another kind of value (WRONGTYPE)?"""
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def keys_of(command: Sequence[Any], key: str) -> Sequence[str]:
    """The keys of the command: of a script its KEYS, of any other ``key``."""
    is_script = command[0] in ("EVAL", "EVALSHA")
    return command[3 : 3 + command[2]] if is_script else (key,)


def wrong_kind(asked: Sequence[tuple[str, str]], kinds: Sequence[Any]) -> WrongKind | None:
    """The error for the first key that holds another kind of value; None = there is none.

    asked: TYPE of each key; kinds: the replies to them.
    """
    for (_, key), kind in zip(asked, kinds, strict=True):
        found = "none" if isinstance(kind, Exception) else text(kind)
        if found not in ("none", kind_of(key)):
            return WrongKind(key, f"a {found}")
    return None


def of_key(reply: Any, key: str) -> Any:
    """Return the reply to a command about this key alone; a WRONGTYPE names the key then."""
    return WrongKind(key) if is_wrong_kind(reply) else reply


def passes(error: Exception) -> bool:
    """Does this error end by itself (a failover, a full disk or memory, a long script)?"""
    return isinstance(error, _PASSING) or any(word in str(error) for word in _PASSING_WORDS)


def is_full(error: Exception) -> bool:
    """Has the server reached its ``maxmemory``?"""
    return isinstance(error, OutOfMemoryError) or "OOM " in str(error)


def is_forbidden(error: Exception) -> bool:
    """Is the command or the key refused for good, by an ACL or because it was renamed away?"""
    words = str(error).lower()
    return (
        isinstance(error, NoPermissionError)
        or "permission" in words
        or "user executing the script can't" in words  # Redis 6.2
        or words.startswith("unknown command")
    )


def says_demoted(error: Exception) -> bool:
    """Does a server say that it is no master (any more)?"""
    if isinstance(error, ReadOnlyError | MasterDownError):
        return True
    words = str(error)  # Redis 6.2 passes it on from a script as another error's text
    return "READONLY" in words or "instance state changed" in words


def no_redis(endpoint: Endpoint, why: str) -> RedisConnectionError:
    """The error for a server at the endpoint that is no Redis."""
    return RedisConnectionError(f"what answers at {endpoint} is no Redis: {why}")


async def explained(
    endpoint: Endpoint, error: Exception, *, key: str = "", waited_s: float | None = None
) -> Failure:
    """What this error means to a user, as a sentence with an exit code.

    key: the key it is about. waited_s: how long it was waited for something else to come.
    """
    if never := await reason(endpoint, error, key):
        return Failure(_exits.USAGE if "WRONGTYPE" in str(error) else _exits.REDIS, never)
    why = words_of(error) or "no answer"
    if isinstance(error, ResponseError):
        after = "" if waited_s is None else f" after {waited_s:g} s"
        return Failure(_exits.REDIS, f"{endpoint} refuses{after}: {why}.")
    if isinstance(error, WrongReplyError):
        return Failure(
            _exits.REDIS,
            f"{endpoint} is reached, but {why}. Is it a Redis, and does nothing on the way change "
            "what it says?",
        )
    within = "" if waited_s is None else f" within {waited_s:g} s"
    return Failure(
        _exits.REDIS,
        f"cannot reach Redis at {endpoint}{within}: {why}. Is it running? Set --url or REDIS_URL.",
    )


async def reason(endpoint: Endpoint, error: Exception, key: str = "") -> str | None:
    """What is wrong where waiting can never help, in one sentence; None = perhaps it does.

    key: the key it is about.
    """
    words = words_of(error)
    if isinstance(error, NoPermissionError) or "NOPERM" in words:
        return f"{endpoint} does not let this user do that ({words}). Allow it: ACL SETUSER."
    if isinstance(error, AuthenticationError) or "NOAUTH" in words:
        return f"{endpoint} refuses the user or password ({words}). {URL_FORM}"
    if isinstance(error, WrongKind) and error.key != key:
        return f"{error.what} on {endpoint}. {error.remedy}."
    if "WRONGTYPE" in words:
        return f"key {key!r} on {endpoint} is not a stream. Choose another name or a prefix."
    if isinstance(error, ResponseError):
        return None
    if "is no Redis" in words:
        return f"{words}. {URL_FORM}"
    return await _line_trouble(endpoint, str(error))


def words_of(error: Exception) -> str:
    """What the error says, without the line of the script that Redis (7.0 on) names behind it."""
    return _OF_SCRIPT.sub("", " ".join(str(error).split())).rstrip(".")


async def _line_trouble(endpoint: Endpoint, words: str) -> str | None:
    """As reason(), for a connection that broke: TLS where there is none, protected mode, ..."""
    closed = any(word in words.lower() for word in ("closed", "reset", "lost"))
    elsewhere = endpoint.path is not None or endpoint.service is not None
    if endpoint.ssl and (why := await tls_trouble(endpoint, words)):
        return why
    if elsewhere or "refused" in words.lower():
        return None
    if not endpoint.ssl and not closed:
        return None
    scheme, _, _ = str(endpoint).partition("://")
    greeting = await _greeting(*endpoint.nodes[0])
    if greeting.startswith(b"-DENIED"):
        return (
            f"{endpoint} runs in protected mode and refuses other hosts: set a password "
            "(requirepass, or ACL SETUSER) there, or protected-mode no where the network is "
            "private."
        )
    if endpoint.ssl and greeting[:1] in (b"+", b"-"):
        return (
            f"{endpoint} does not speak TLS on that port: use "
            f"{scheme.replace('rediss', 'redis')}://, or its TLS port."
        )
    if not endpoint.ssl and not greeting and await _speaks_tls(*endpoint.nodes[0]):
        return (
            f"{endpoint} expects TLS on that port: use "
            f"{scheme.replace('redis', 'rediss')}://, or its plain port."
        )
    return None


async def _greeting(host: str, port: int) -> bytes:
    """What the server sends: by itself (in protected mode), or in reply to a PING without TLS."""
    writer = None
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SPEAKS_FIRST_S):
                    return await reader.read(100)
            writer.write(b"PING\r\n")
            return await reader.read(100)
    except (OSError, TimeoutError, UnicodeError):
        return b""
    finally:
        if writer is not None:
            writer.close()


async def _speaks_tls(host: str, port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:  # it answers in TLS that it wants a certificate, say
        return "ALERT" in str(error).upper()
    except (OSError, TimeoutError, UnicodeError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
