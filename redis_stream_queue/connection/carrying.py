"""An answer that does not arrive though the server answers everything else: is it too large?

Too large for ``client-output-buffer-limit``, for something on the way, for the memory here: asked
for again and again it never comes. An outage looks alike at first; so this is for an answer that
was asked for alone, and the same life of the server must answer before and after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import ResponseError

from .._plain import plain_cut
from .exchange import OUTAGES, run_id
from .link import Link
from .refusals import passes

ARRIVES_BYTES = 1024  # so little arrives wherever anything does
TRIES = 2
WORDS = 300  # characters of an error

T = TypeVar("T")


class NotCarriedError(Exception):
    """Why it could not be read in, with its size."""


async def carry(
    link: Link, key: str, size: int, bring: Callable[[], Awaitable[T]], tries: int = TRIES
) -> T:
    """What ``bring`` asks of the node that serves the key: one entry of so many bytes.

    Raises NotCarriedError if it is the entry's own fault that it does not arrive, else what
    ``bring`` raises.
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


async def _life(link: Link, key: str) -> str:
    """Which life of the server answers now; "" where an ACL forbids INFO. Raises an outage."""
    try:
        return run_id(await link.call(key, "INFO", "server"))
    except ResponseError as error:
        if passes(error):
            raise
        return ""


def size_text(size: int) -> str:
    """``5.2 MB``, ``12.3 kB``."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
