"""Whatever others wrote: it is shown in visible characters, on its own lines, and within bounds."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from redis_stream_queue._plain import cut, json_line, plain, plain_cut, trace
from redis_stream_queue.delivery.batch import describe, verdict_of
from redis_stream_queue.exceptions import Reject, Retry
from redis_stream_queue.pool.logs import JsonFormatter, TextFormatter

EVIL = (
    "\x1b]52;c;ZXZpbA==\x07\x1b[2J\r2026-11-26T00:00:00.000Z INFO master pid=1 by CR"
    "\u202e\u2066\x9b31m\x7f\u2028\x85\x0b\ud800\U000e0041\u200b"
    "\n2026-11-26T00:00:00.000Z CRITICAL master pid=1 forged"
)
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, tags), surrogate, separators
texts = st.text(st.characters(codec=None, categories=None)) | st.text(
    "\n\r\x1b\x7f\x9b\u202e\ud800"
)


def unseen(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in UNSEEN]


@given(texts)
def test_plain_text_has_no_unseen_character_and_one_line(text: str) -> None:
    shown = plain(text)
    assert not unseen(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(texts, st.integers(20, 60))
def test_what_is_cut_is_within_its_bounds(text: str, most: int) -> None:
    assert len(cut(text, most)) <= most
    assert len(plain_cut(text, most)) <= most
    assert not unseen(plain_cut(text, most))


def test_visible_text_stays_as_it_is() -> None:
    for text in ("", "order 17", "Größe 5 µm, 寸法, \U0001f600", "a\\n"):
        assert plain(text) == text


@given(st.recursive(texts, lambda t: st.lists(t) | st.dictionaries(texts, t)))
def test_json_is_visible_ascii_on_one_line(value: object) -> None:
    line = json_line(value)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == value


def record(text: str, error: BaseException | None = None, name: str = "redis_stream_queue.x"):  # type: ignore[no-untyped-def]
    return logging.LogRecord(
        name, logging.ERROR, "f.py", 1, "%s", (text,), error and (type(error), error, None)
    )


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_no_line_of_the_log_is_forged() -> None:
    for name in ("redis_stream_queue", "app"):
        for error in (None, raised(ValueError(EVIL)), raised(KeyError(EVIL))):
            text = TextFormatter("master").format(record(EVIL, error, name))
            assert not unseen(text.replace("\n", ""))
            first, *others = text.split("\n")
            assert first.startswith("2")
            assert others
            assert all(line.startswith("    ") for line in others)
            line = JsonFormatter("master").format(record(EVIL, error, name))
            assert line.isascii()
            assert line.isprintable()
            said = json.loads(line)["message"]
            assert said == (EVIL if name == "app" else plain(EVIL, "\n"))


def test_records_of_ours_are_short_whatever_the_app_says() -> None:
    errors = [ValueError("y" * 5_000_000), ValueError("\x1b\n" * 1_000_000)]
    chain: BaseException = ValueError("first")
    for number in range(100):
        nested = ValueError(f"{number} " + "z" * 10_000)
        nested.__cause__ = chain
        chain = nested
    deep = None
    try:
        eval("f()", {"f": lambda: sys.setprofile(None) or _recurse()})
    except RecursionError as error:
        deep = error
    assert deep is not None
    group = ExceptionGroup("many", [ValueError("g" * 10_000) for _ in range(1000)])
    noted = ValueError("short")
    noted.add_note("n" * 1_000_000)
    for error in [*errors, chain, deep, group, noted]:
        shown = TextFormatter("slot=1").format(record("handler failed", raised(error)))
        assert len(shown) < 2048
        assert "handler failed" in shown
        assert len(JsonFormatter("slot=1").format(record("m" * 5_000_000, error))) < 8000
    assert len(TextFormatter("slot=1").format(record("m" * 5_000_000))) < 2048


def _recurse() -> None:
    _recurse()


def test_records_of_the_app_are_as_long_as_it_makes_them() -> None:
    assert "m" * 10_000 in TextFormatter("slot=1").format(record("m" * 10_000, name="app"))


def test_an_error_that_travels_is_cut_and_plain_whatever_kind_it_is() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return EVIL + "x" * 5_000_000

    Odd.__name__ = "O\x1b[31m" + "d" * 5000
    for error in (Retry(EVIL * 1000), Reject(EVIL + "y" * 5_000_000), Odd(), KeyError(EVIL)):
        text = verdict_of(raised(error)).error
        assert len(text) <= 2000
        assert not unseen(text.replace("\n", ""))
    assert len(describe(raised(Odd()))) <= 2000
    assert verdict_of(Reject("why\nnot")).error == "why\nnot"


def test_a_trace_names_the_error_and_what_led_to_it() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        text = trace(error, 2000)
    assert "KeyError: 'first'" in text
    assert text.endswith("ValueError: second")
