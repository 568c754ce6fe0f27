"""Logging of the pool's processes: one record an event on standard error, as text or JSON.

A record's further lines are indented, so that nothing that a message or an error says looks like a
record of its own. Records of ours are bounded; an app's own are as long as the app makes them.

Every record of a process of the pool, the app's too, knows its slot and the message during whose
handling it was made: attributes ``rsq_slot``, ``rsq_stream``, ``rsq_message_id`` and ``rsq_task``
(None where there is none). Where the app has its own formats, the text of our records begins with
slot and pid.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any, TextIO

from .._log import logger, saying
from .._plain import CONTINUED, json_line, plain, plain_cut, trace
from ..delivery import current

log = logger(__name__)

OURS = "redis_stream_queue"
UNDER_US = ("asyncio", "concurrent.futures")  # their lines, too, must not raise in our loop
MOST_TEXT = 1900  # characters of a record of ours
MOST_BESIDE_TRACE = 700  # of its text where a traceback follows
MOST_TRACE = MOST_TEXT - MOST_BESIDE_TRACE


STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
STANDARD |= {"rsq_slot", "rsq_stream", "rsq_message_id", "rsq_task"}


class Record(logging.LogRecord):
    """A record that knows where it was made. Names that an app gives in ``extra=`` stay free."""

    who = ""  # ``master`` or ``slot=3``
    slot: int | None = None
    stream = ""  # that a worker reads

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rsq_slot = self.slot
        noted = current.noted()
        self.rsq_stream = self.stream if noted else None
        self.rsq_message_id = noted[0] if noted else None
        self.rsq_task = noted[1] if noted else None

    def getMessage(self) -> str:
        """For formats of the app's: ours show the same in places of their own."""
        text = super().getMessage()
        begin = f"{self.who} pid={self.process} "
        # Where a queue carries a record, what is formatted comes here once more.
        return begin + text if _is_ours(self) and not text.startswith(begin) else text


class Unsilenced(logging.Logger):
    """A logger that ``dictConfig`` and ``fileConfig`` cannot disable for not being named there."""

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, _: bool) -> None:
        pass


class Harmless(logging.Logger):
    """A logger of a library that runs our code: what the app's logging raises stays here."""

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


class OnTerminal(logging.StreamHandler[TextIO]):
    """Erases what stands on the line already: the progress bar of ``--burst``, say."""

    def format(self, record: logging.LogRecord) -> str:
        return "\r\x1b[K" + super().format(record)


def erases_lines(stream: TextIO | None) -> bool:
    """Is it a terminal that knows how to erase a line?"""
    if stream is None or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def _handled(record: logging.LogRecord) -> tuple[str | None, ...]:
    """Stream, message and task."""
    names = "rsq_stream", "rsq_message_id", "rsq_task"
    return tuple(getattr(record, name, None) for name in names)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """What the app added to a record, as far as JSON can say it."""
    added = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {name: _sayable(value) for name, value in added.items()}


def _sayable(value: Any) -> Any:
    try:
        json_line(value)
    except Exception:  # no JSON, or an endless one
        return repr(value)
    return value


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OURS


def _parts(formatter: logging.Formatter, record: logging.LogRecord) -> tuple[str, str]:
    """What a record says, and the traceback with it ("" = none)."""
    text, error = logging.LogRecord.getMessage(record), ""
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


def set_up(level: str, style: str, who: str, slot: int | None = None) -> None:
    """Send this process's log to standard error; an app may configure logging as it likes.

    who: ``master`` or ``slot=3``.
    """
    kind = OnTerminal if erases_lines(sys.stderr) else logging.StreamHandler[TextIO]
    handler = kind(sys.stderr)
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
    """After a fork from a process that has imported the app: its own set-up of logging stays."""
    Record.who, Record.slot = who, slot
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter | TextFormatter):
            handler.setFormatter(type(handler.formatter)(who))
