"""Logging of the pool's processes: one record an event on standard error, as text or JSON.

A record's further lines are indented, so that nothing that a message or an error says looks like a
record of its own. Records of ours are bounded; an app's own are as long as the app makes them.
"""

from __future__ import annotations

import logging
import sys
import time

from .._plain import CONTINUED, json_line, plain, plain_cut, trace

OURS = "redis_stream_queue"
MOST_TEXT = 1900  # characters of a record of ours
MOST_BESIDE_TRACE = 700  # of its text where a traceback follows
MOST_TRACE = MOST_TEXT - MOST_BESIDE_TRACE


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        text, error = _parts(self, record)
        line = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._who,
            "pid": record.process,
            "message": text,
        }
        if error:
            line["error"] = error
        return json_line(line)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO master pid=42 text``."""

    def __init__(self, who: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {who} pid=%(process)d ",
            "%Y-%m-%dT%H:%M:%S",
        )
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        record.asctime = self.formatTime(record, self.datefmt)
        text = "\n".join(filter(None, _parts(self, record)))
        shown = (
            plain_cut(text, MOST_TEXT, CONTINUED) if _is_ours(record) else plain(text, CONTINUED)
        )
        return plain(self.formatMessage(record)) + shown


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OURS


def _parts(formatter: logging.Formatter, record: logging.LogRecord) -> tuple[str, str]:
    """What a record says, and the traceback with it ("" = none)."""
    text, error = record.getMessage(), ""
    if record.exc_info and record.exc_info[1]:
        if _is_ours(record):
            error = trace(record.exc_info[1], MOST_TRACE)
        else:
            error = formatter.formatException(record.exc_info)
    if record.stack_info:
        error = f"{error}\n{record.stack_info}".lstrip("\n")
    if _is_ours(record):
        text = plain_cut(text, MOST_BESIDE_TRACE if error else MOST_TEXT, "\n")
        error = plain_cut(error, MOST_TRACE, "\n")
    return text, error


def set_up(level: str, style: str, who: str) -> None:
    """Send this process's log to standard error; an app may add handlers of its own.

    who: ``master`` or ``slot=3``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(who) if style == "json" else TextFormatter(who))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
