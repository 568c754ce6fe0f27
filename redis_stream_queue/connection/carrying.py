"""Entries that are too large for a script: they are read here and written again.

A reply may be too large for ``client-output-buffer-limit``, for a proxy, or for the memory here: it
never arrives, however often it is asked for, while the server answers everything else. An outage
looks the same at first. So the reply is asked for alone, and the same server (by its run id) must
answer before and after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from .._plain import plain_cut
from .exchange import OUTAGES, run_id
from .link import Link
from .packing import Command
from .refusals import passes
from .scripts import IF_ADDED

ARRIVES_BYTES = 1024  # a reply of so few bytes is never too large
TRIES = 2
WORDS = 300  # most characters of the error in the text

T = TypeVar("T")


class NotCarriedError(Exception):
    """The text says how large the reply is and why it could not be read."""


async def carry(
    link: Link, key: str, size: int, bring: Callable[[], Awaitable[T]], tries: int = TRIES
) -> T:
    """Return what ``bring`` returns: it reads one entry of ``size`` bytes at the node of this key.

    Raises NotCarriedError if the entry is too large to arrive, else what ``bring`` raises.
    """
    while True:
        life = await _life(link, key)
        try:
            return await bring()
        except ResponseError:  # that has arrived
            raise
        except (*OUTAGES, MemoryError) as error:
            if size <= ARRIVES_BYTES or await _life(link, key) != life:
                raise
            tries -= 1
            if tries <= 0:
                words = plain_cut(str(error).rstrip(".") or type(error).__name__, WORDS)
                raise NotCarriedError(f"{size_text(size)} could not be read in: {words}") from error


def moving(add: Command, remove: str, key: str, *what: Any) -> list[Command]:
    """The transaction that adds an entry to a stream and removes it elsewhere, if it was added.

    add: what follows XADD. remove: the command that removes ``what`` from ``key``.
    Its replies are for of_transaction(): those of both commands.
    """
    return [
        ("MULTI",),
        ("XADD", *add),
        ("EVAL", IF_ADDED.source, 2, add[0], key, remove, *what),
        ("EXEC",),
    ]


async def _life(link: Link, key: str) -> str:
    """The run id of the server that answers now; "" where an ACL forbids INFO. Raises OUTAGES."""
    try:
        return run_id(await link.call(key, "INFO", "server"))
    except ResponseError as error:
        if passes(error):
            raise
        return ""


def size_text(size: int) -> str:
    """``5.2 MB``, ``12.3 kB``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
