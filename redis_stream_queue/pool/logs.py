"""Logging of the pool's processes: one line an event on standard error, as text or JSON."""

from __future__ import annotations

import json
import logging
import sys
import time


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = who

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._who,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO master pid=42 text``."""

    def __init__(self, who: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {who} pid=%(process)d %(message)s",
            "%Y-%m-%dT%H:%M:%S",
        )
        self.converter = time.gmtime


def set_up(level: str, style: str, who: str) -> None:
    """Send this process's log to standard error; an app may add handlers of its own.

    who: ``master`` or ``slot=3``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(who) if style == "json" else TextFormatter(who))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
