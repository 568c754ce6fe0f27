"""docs/promises.md is the tour through the tests: the promises in order, and what attacks each."""

from __future__ import annotations

import re

import pytest

from tests.guide.conftest import ROOT

SECTIONS = (ROOT / "docs" / "promises.md").read_text().split("\n## ")[1:]
PROMISES = {int(section.partition(".")[0]): section for section in SECTIONS}
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def named_in(section: str) -> list[str]:
    """The files and folders of tests that stand there."""
    return re.findall(r"`(tests/[\w./]+)`", section)


def test_they_are_numbered_in_order() -> None:
    """Thirteen, as tests and commits call them."""
    assert list(PROMISES) == list(range(1, 14))


@pytest.mark.parametrize("number", PROMISES)
def test_what_attacks_a_promise_is_there(number: int) -> None:
    """Two places or more; a file holds tests, and a folder holds such files."""
    named = named_in(PROMISES[number])
    assert len(named) >= 2
    for place in named:
        files = [test for test in TESTS if test.relative_to(ROOT).as_posix().startswith(place)]
        assert files, f"there is no {place}"
        assert all("def test_" in file.read_text() for file in files), place


def test_what_a_test_says_it_attacks_lists_it() -> None:
    """A file that begins with "Promise 8" stands under 8."""
    missing = []
    for test in TESTS:
        name = test.relative_to(ROOT).as_posix()
        head = re.match(r'"""Promises? ((?:\d+|, | and | to )+)', test.read_text())
        for number in re.findall(r"\d+", head[1]) if head else []:
            if not any(name.startswith(place) for place in named_in(PROMISES[int(number)])):
                missing.append(f"{name}: promise {number}")
    assert missing == []


def test_what_shows_how_later_fails_is_there() -> None:
    """Each row of the table in docs/later.md names tests, by their functions."""
    table = (ROOT / "docs" / "later.md").read_text().partition("| shown by |")[2]
    there = {name for test in TESTS for name in re.findall(r"def (test_\w+)", test.read_text())}
    rows = [re.findall(r"`(test_\w+)`", line) for line in table.splitlines()[2:]]
    assert len(rows) > 15
    assert all(rows)
    assert {name for row in rows for name in row} <= there
