"""Text that others wrote, made safe to show: on a terminal, in a log, in a dead letter. Pure.

Payloads, names and errors may hold anything: escape sequences that a terminal obeys, carriage
returns and newlines that forge lines of a log, marks that turn the reading direction. All output
of ours goes through here.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator
from typing import Any

CONTINUED = "\n    "  # the lines of one record after its first
MOST_TRACE_PART = 500  # characters of one frame, or of an error's own text
_LEFT_OUT = " [...] "
_URL = re.compile(r"\s*(rediss?|unix)(\+\w+)?://", re.IGNORECASE)
# What is before the @ of a URL, and in its query
_PASSWORD = re.compile(r"""(:/+)[^\s'"/][^\s'"]*(?=@)|(password=)[^\s'"&]+""", re.IGNORECASE)


def plain(text: str, newline: str = "\\n") -> str:
    """The text with everything that is no visible character escaped, as ``repr`` does it.

    newline: what stands for one.
    """
    if text.isprintable():
        return text
    return newline.join(
        line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n")
    )


def _escaped(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]


def cut(text: str, most: int) -> str:
    """At most so many characters: the beginning, a mark and the end."""
    if len(text) <= most:
        return text
    room = most - len(_LEFT_OUT)
    return text[: room // 2] + _LEFT_OUT + text[-(room - room // 2) :]


def plain_cut(text: str, most: int, newline: str = "\\n") -> str:
    """``plain`` and ``cut``; what is left out costs no time."""
    return cut(plain(cut(text, most), newline), most)


def without_passwords(text: str) -> str:
    """The text with *** for each password in a URL: a URL may stand where none is expected."""
    return _PASSWORD.sub(r"\1\2***", text) if ":/" in text else text


def is_url(text: str) -> bool:
    """Is it the URL of a Redis? (In place of a name it is a mistake, and may hold a password.)"""
    return _URL.match(text) is not None


def trace(error: BaseException, most: int) -> str:
    """A traceback with the errors that led to it, as Python prints it, within so many characters.

    The lines of others are not escaped yet.
    """
    return cut("".join(_trace_parts(error)).rstrip("\n"), most)


def _trace_parts(error: BaseException) -> Iterator[str]:
    for part in traceback.TracebackException.from_exception(error, limit=-20).format():
        yield part if len(part) <= MOST_TRACE_PART else cut(part, MOST_TRACE_PART) + "\n"


def json_line(value: Any) -> str:
    """JSON in visible ASCII, on one line."""
    return json.dumps(value).replace("\x7f", "\\u007f")  # the one control character that it leaves
