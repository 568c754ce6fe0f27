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
    monkeypatch.setattr(_log.SafeLog, "_said_at_ms", None)
    yield _log.logger("redis_stream_queue.some.module")
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


def test_what_is_done_to_the_parent_counts_for_its_modules(
    log: _log.SafeLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its level, its filters, and that it is disabled, as dictConfig does it."""
    logger.addFilter(lambda record: "secret" not in record.getMessage())
    log.warning("a secret")
    log.warning("seen")
    monkeypatch.setattr(logger, "disabled", True)
    log.warning("too late")
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.ERROR, "redis_stream_queue")
    log.warning("too low")

    assert [record.getMessage() for record in caplog.records] == ["seen"]
    assert [record.name for record in caplog.records] == ["redis_stream_queue.some.module"]


def test_a_line_has_no_password_of_a_url(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it comes from; and a line without one keeps its arguments, by which others group."""
    log = _log.logger("redis_stream_queue.tests")
    log.error("%s 100%% of %s", ValueError("amqp://u:s3cret@h"), "redis://h?password=s3cret")
    log.error("%s of %s", 1, "redis://h")
    secret, plain = caplog.records
    assert secret.getMessage() == "amqp://***@h 100% of redis://h?password=***"
    assert (plain.msg, plain.args) == ("%s of %s", (1, "redis://h"))
