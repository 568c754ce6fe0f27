"""Logging of the pool's processes: each event is one record on standard error, as text or JSON.

All lines of a record but the first are indented, so that no text of a message or an error looks
like a record of its own. Our records are cut at a length; those of the app are not.

Every record of a process of the pool, also of the app, has the slot and the message that was being
handled: attributes ``rsq_slot``, ``rsq_stream``, ``rsq_message_id`` and ``rsq_task`` (None where
there is none). Where the app has its own formats, the text of our records begins with slot and pid.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, TextIO

from .._log import logger, saying
from .._plain import CONTINUED, json_line, plain, plain_cut, trace, without_passwords
from ..delivery import current
from .log_stream import UnheldHandler, unheld

log = logger(__name__)

OURS = "redis_stream_queue"
UNDER_US = ("asyncio", "concurrent.futures")  # when they log, nothing may be raised in our loop
MOST_TEXT = 1900  # characters of a record of ours
MOST_BESIDE_TRACE = 700  # of its text where a traceback follows
MOST_TRACE = MOST_TEXT - MOST_BESIDE_TRACE


STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
STANDARD |= {"rsq_slot", "rsq_stream", "rsq_message_id", "rsq_task"}


class Record(logging.LogRecord):
    """A record with slot, stream, message and task; other names are free for ``extra=``."""

    who = ""  # ``master`` or ``slot=3``
    slot: int | None = None
    stream = ""  # the one that this worker reads

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rsq_slot = self.slot
        noted = current.noted()
        self.rsq_stream = self.stream if noted else None
        self.rsq_message_id = noted[0] if noted else None
        self.rsq_task = noted[1] if noted else None

    def getMessage(self) -> str:
        """The text; if a format of the app asks for a record of ours, with slot and pid first."""
        text = super().getMessage()
        begin = f"{self.who} pid={self.process} "
        # A QueueHandler formats a record, then it is formatted once more: so look before adding.
        return begin + text if _is_ours(self) and not text.startswith(begin) else text


class Unsilenced(logging.Logger):
    """A logger that ``dictConfig`` and ``fileConfig`` do not disable where they do not name it."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, _: bool) -> None:
        pass


class Harmless(logging.Logger):
    """A logger of a library that we run on: an error of the app's log handlers stops here."""

    def _log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        try:
            with saying:
                super()._log(level, msg, *args, **kwargs)
        except BaseException as error:  # a handler of the app's may raise anything
            log.say_raised(error, msg)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, what the app gives in ``extra=`` included."""

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
        stream, message_id, task = _handled(record)
        if message_id:
            line |= {"stream": stream, "message_id": message_id}
        if task:
            line["task"] = task
        if error:
            line["error"] = error
        return json_line({**_extra(record), **line})


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z INFO master pid=42 text``; where a message is being handled, its
    stream and id before the text."""

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
        stream, message_id, task = _handled(record)
        named = shown.startswith(f"{message_id} of {stream}")
        where = f"{stream} {message_id} " if message_id and not named else ""
        where += f"{task} " if task else ""
        return plain(self.formatMessage(record) + where) + shown


class OnTerminal(UnheldHandler):
    """Erases the line before each record: the progress bar of ``--burst`` may stand there."""

    def format(self, record: logging.LogRecord) -> str:
        return "\r\x1b[K" + super().format(record)


def erases_lines(stream: TextIO | None) -> bool:
    """Is this stream a terminal that can erase a line?"""
    if stream is None or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def _handled(record: logging.LogRecord) -> tuple[str | None, ...]:
    """Stream, message id and task of the message that was being handled, None each if none was."""
    names = "rsq_stream", "rsq_message_id", "rsq_task"
    return tuple(getattr(record, name, None) for name in names)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """The values that the app gave in ``extra=``, or their repr where JSON has no form for them."""
    added = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {name: _sayable(value) for name, value in added.items()}


def _sayable(value: Any) -> Any:
    try:
        json_line(value)
    except Exception:  # no form in JSON, or a value that contains itself
        return repr(value)
    return value


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OURS


def _parts(formatter: logging.Formatter, record: logging.LogRecord) -> tuple[str, str]:
    """The text of a record, and its traceback ("" = none)."""
    text, error = logging.LogRecord.getMessage(record), ""
    if record.exc_info and record.exc_info[1]:
        if _is_ours(record):
            error = without_passwords(trace(record.exc_info[1], MOST_TRACE))
        else:
            error = formatter.formatException(record.exc_info)
    if record.stack_info:
        error = f"{error}\n{record.stack_info}".lstrip("\n")
    if _is_ours(record):
        text = plain_cut(text, MOST_BESIDE_TRACE if error else MOST_TEXT, "\n")
        error = plain_cut(error, MOST_TRACE, "\n")
    return text, error


def set_up(level: str, style: str, who: str, slot: int | None = None) -> None:
    """Send the log of this process to standard error; the app may change that later.

    level: of ``logging``, in any case. style: ``json`` or ``text``. who: ``master`` or ``slot=3``.
    """
    stream: Any = sys.stderr
    if slot is None:  # a worker may wait, as the prints of its app do
        stream = unheld(stream) or stream
    handler = (OnTerminal if erases_lines(sys.stderr) else UnheldHandler)(stream)
    handler.setFormatter(JsonFormatter(who) if style == "json" else TextFormatter(who))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    Record.who, Record.slot = who, slot
    logging.setLogRecordFactory(Record)
    logging.getLogger(OURS).__class__ = Unsilenced
    for name in UNDER_US:
        logging.getLogger(name).__class__ = Harmless
    logging.getLogger(OURS).setLevel(level.upper())  # also where the app's root has another one


def carry_on_as(who: str, slot: int) -> None:
    """Log as this slot from now on, after a fork from a process that has imported the app.

    The app's configuration of logging stays as it is.
    """
    Record.who, Record.slot = who, slot
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter | TextFormatter):
            handler.setFormatter(type(handler.formatter)(who))
