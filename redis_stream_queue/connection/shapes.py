"""The shape of the reply to each command, and the error for a reply of another shape.

A shape is one of these:

    int             a reply of this type (Exception: an error of any kind)
    b"OK"           this very reply
    [x]             a list of replies of the shape x; [x, ...]: of one at least
    (x, y)          a list of just these two
    {b"name": x}    a flat list of names and values, in which the value of this name has the shape x
    Either(x, y)    one of them
    a function      returns whether the reply fits
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis.exceptions import InvalidResponse

from .._plain import plain_cut
from .packing import Command

MOST_SHOWN = 40  # characters of a reply

Shape = Any
ANY = object()  # the shape of a reply that is not looked at


class WrongReplyError(InvalidResponse):
    """A reply that no Redis gives to that command. The text: what came, what was expected."""


class Either:
    """One of several shapes."""

    def __init__(self, *shapes: Shape) -> None:
        self.shapes = shapes


# -- what fits -------------------------------------------------------------------------------------


def an_id(reply: Any) -> bool:
    return type(reply) is bytes and _IS_ID(reply) is not None


_IS_ID = re.compile(rb"\d{1,20}-\d{1,20}").fullmatch


def digits(reply: Any) -> bool:
    return type(reply) is bytes and len(reply) <= 20 and reply.isdigit()


def positive(reply: Any) -> bool:
    return type(reply) is int and reply > 0


def role(reply: Any) -> bool:
    return type(reply) is list and type(reply[0]) is bytes


def ids_or_errors(reply: Any) -> bool:
    """A list of ids of entries, each of which may be an error instead."""
    ids = [one for one in reply if type(one) is bytes]
    errors = [one for one in reply if isinstance(one, Exception)] if len(ids) < len(reply) else ()
    return type(reply) is list and len(ids) + len(errors) == len(reply) and _are_ids(ids)


def new_entries(reply: Any) -> bool:
    """Entries of one stream, or nil."""
    if reply is None:
        return True
    [[_, entries]] = reply
    for entry_id, fields in entries:
        if type(entry_id) is not bytes or type(fields) is not list or type(fields[-1]) is not bytes:
            return False
    return type(entries) is list and _are_ids([entry_id for entry_id, _ in entries])


def _are_ids(ids: Sequence[bytes]) -> bool:
    """Are these all ids of entries? All are looked at together, for speed."""
    joined = b"".join(ids)
    return joined.count(b"-") == len(ids) and (not ids or joined.replace(b"-", b"").isdigit())


def fits(reply: Any, shape: Shape) -> bool:
    """Does a reply have this shape?"""
    kind = type(shape)
    if shape is ANY:
        return True
    if kind is type:
        return type(reply) is shape or (shape is Exception and isinstance(reply, shape))
    if kind is Either:
        return any(fits(reply, one) for one in shape.shapes)
    if kind is list:
        least = len(shape) - 1
        return type(reply) is list and len(reply) >= least and all(fits(r, shape[0]) for r in reply)
    if kind is tuple:
        same = type(reply) is list and len(reply) == len(shape)
        return same and all(map(fits, reply, shape))
    if kind is dict:
        if type(reply) is not list or len(reply) % 2 or not fits(reply[::2], [bytes]):
            return False
        found = dict(zip(reply[::2], reply[1::2], strict=True))
        return all(fits(found.get(name), value) for name, value in shape.items())
    if callable(shape):
        try:
            return bool(shape(reply))
        except (TypeError, ValueError, LookupError):  # what a wrong one is taken apart with
            return False
    return type(reply) is kind and reply == shape


# -- which commands, which scripts -----------------------------------------------------------------

PAIRS: Shape = {}
ENTRY: Shape = (an_id, [bytes])
SETTING: Shape = Either((bytes, bytes), ())
VALUE: Shape = Either(bytes, None)
PENDING: Shape = (an_id, bytes, int, int)

REPLIES: dict[str, Shape] = {
    "ASKING": b"OK",
    "BLMOVE": VALUE,
    "CLIENT ID": int,
    "CLIENT KILL": int,
    "CLIENT UNBLOCK": int,
    "CONFIG GET": SETTING,
    "DEL": int,
    "GET": VALUE,
    "HGETALL": PAIRS,
    "INFO": bytes,
    "LINDEX": VALUE,
    "MULTI": b"OK",
    "PEXPIRE": int,
    "PING": b"PONG",
    "QUEUED": b"QUEUED",
    "ROLE": role,
    "RPUSH": int,
    "SENTINEL": Either((bytes, digits), None),
    "SET": b"OK",
    "TIME": (digits, digits),
    "TYPE": bytes,
    "WAIT": int,
    "WATCH": b"OK",
    "XACK": int,
    "XADD": an_id,
    "XDEL": int,
    "XGROUP CREATE": b"OK",
    "XGROUP CREATECONSUMER": int,
    "XINFO CONSUMERS": [{b"name": bytes, b"pending": int, b"idle": int}],
    "XINFO GROUPS": [{b"name": bytes, b"pending": int, b"last-delivered-id": an_id}],
    "XINFO STREAM": {b"last-generated-id": an_id},
    "XLEN": int,
    "XPENDING": [PENDING],
    "XRANGE": [ENTRY],
    "XREAD": new_entries,
    "XREADGROUP": new_entries,
    "XREVRANGE": [ENTRY],
    "XTRIM": int,
    "ZADD": int,
    "ZCARD": int,
    "ZCOUNT": int,
    "ZRANGE": [bytes],
    "ZRANGEBYSCORE": [bytes],
    "ZREM": int,
    "ZREMRANGEBYSCORE": int,
}
ALL_PENDING: Shape = (int, Either(an_id, None), Either(an_id, None), Either(list, None))

of_script: dict[str, Shape] = {}  # by the hash of the script, and by its source


def _shape(command: Command) -> Shape:
    """The shape of the reply to this command."""
    name = command[0]
    if name in REPLIES:
        return ALL_PENDING if name == "XPENDING" and len(command) == 3 else REPLIES[name]
    if name in ("EVALSHA", "EVAL"):
        return of_script.get(command[1], ANY)
    if name == "EXEC":
        return Either(tuple(Either(_shape(one), Exception) for one in command[1:]), None)
    return REPLIES.get(f"{name} {command[1]}", ANY) if len(command) > 1 else ANY


def answered(commands: Sequence[Command]) -> Sequence[Command]:
    """For each reply the command that it belongs to. (EXEC answers those of a transaction.)"""
    if not commands or commands[0][0] != "MULTI":
        return commands
    inside = commands[1:-1]
    return [commands[0], *[("QUEUED",)] * len(inside), ("EXEC", *inside)]


def is_wrong(command: Command, reply: Any) -> bool:
    """Does the reply not fit the command? (An error always fits.)"""
    return not fits(reply, _shape(command)) and not isinstance(reply, Exception)


def checked(command: Command, reply: Any) -> Any:
    """Return the reply. Raises WrongReplyError if it does not fit the command."""
    if is_wrong(command, reply):
        raise wrong_reply(command, reply)
    return reply


def of_length(count: int, reply: list[Any]) -> list[Any]:
    """Return the reply of a script, a list of ``count`` items. Raises WrongReplyError."""
    if len(reply) != count:
        raise WrongReplyError(f"the server answers a script with {len(reply)}, expected: {count}")
    return reply


# -- what to say -----------------------------------------------------------------------------------

_WORDS: dict[Any, str] = {
    int: "number", bytes: "text", list: "list", None: "nil", an_id: "id", digits: "digits",
    positive: "number above 0", Exception: "error", ids_or_errors: "list of ids",
    role: "role",
    ANY: "anything", new_entries: "entries of one stream, or nil",
}  # fmt: skip


def wrong_reply(command: Command, reply: Any) -> WrongReplyError:
    """The error that says what came and what was expected."""
    name = str(command[0])
    if name not in REPLIES and name not in ("EVALSHA", "EVAL", "EXEC"):
        name += f" {command[1]}"
    return WrongReplyError(
        f"the server answers {name} with {_shown(reply)}, expected: {_words(_shape(command))}"
    )


def no_reply(command: Command, why: Exception) -> WrongReplyError:
    """The error for bytes that are no reply at all."""
    return WrongReplyError(f"the server answers {command[0]} with what is no reply ({why})")


def _shown(reply: Any) -> str:
    if isinstance(reply, bytes):
        return repr(plain_cut(reply[: 4 * MOST_SHOWN].decode(errors="replace"), MOST_SHOWN))
    if isinstance(reply, list):
        return f"a list of {len(reply)}"
    if reply is None:
        return "nil"
    return plain_cut(repr(reply), MOST_SHOWN) if not isinstance(reply, dict) else "a map"


def _words(shape: Shape) -> str:
    if isinstance(shape, list):
        return f"list of {_words(shape[0])}"
    if isinstance(shape, Either):
        return " or ".join(map(_words, shape.shapes))
    if isinstance(shape, tuple):
        return f"({', '.join(map(_words, shape))})" if shape else "empty list"
    if isinstance(shape, dict):
        return " ".join(["names and values", *(name.decode() for name in shape)])
    if isinstance(shape, bytes):
        return repr(shape.decode())
    return str(shape) if isinstance(shape, int) else _WORDS[shape]
