"""Our log: whatever an app hangs into logging, no call of ours raises."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from redis_stream_queue import _log

logger = logging.getLogger("redis_stream_queue")


class Panic(BaseException):
    pass


class RaisingHandler(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def emit(self, record: logging.LogRecord) -> None:
        raise self.error


class RaisingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError("no tenant in this context")


class RaisingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise Panic


class Direct(logging.Handler):
    """Formats outside of the try that logging's own handlers have."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def raising_factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
    raise RuntimeError("the record factory")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[_log.SafeLog]:
    """A log that has said nothing yet; the logger below is cleaned up."""
    factory = logging.getLogRecordFactory()
    yield _log.SafeLog(logger)
    logging.setLogRecordFactory(factory)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    for filter_ in list(logger.filters):
        logger.removeFilter(filter_)


def handler_with(formatter: logging.Formatter) -> logging.Handler:
    handler = Direct()
    handler.setFormatter(formatter)
    return handler


@pytest.mark.parametrize(
    "hang_in",
    [
        lambda: logger.addHandler(RaisingHandler(ValueError("full disk"))),
        lambda: logger.addHandler(RaisingHandler(Panic())),
        lambda: logger.addHandler(RaisingHandler(SystemExit(3))),
        lambda: logger.addHandler(handler_with(RaisingFormatter())),
        lambda: logger.addFilter(RaisingFilter()),
        lambda: logging.setLogRecordFactory(raising_factory),
    ],
    ids=["handler", "BaseException", "SystemExit", "formatter", "filter", "factory"],
)
def test_what_an_app_hangs_into_logging_raises_nothing_here(
    hang_in: Any, log: _log.SafeLog, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said once on standard error, with what was to be logged."""
    hang_in()
    for number in range(3):
        log.error("message %d failed", number)
    said = capfd.readouterr().err
    assert said.count("the app's logging raised") == 1
    assert "this was to be said: message %d failed" in said


def test_a_line_names_the_place_that_wrote_it(
    log: _log.SafeLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.warning("from %s", "here")
    [record] = caplog.records
    assert (record.funcName, record.getMessage()) == (
        "test_a_line_names_the_place_that_wrote_it",
        "from here",
    )
