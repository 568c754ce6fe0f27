"""Tables on terminals of any width: what has to be copied is never cut."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios

import pytest

from redis_stream_queue.cli.screen import _narrowed
from redis_stream_queue.cli.tables import show_table, text_table
from redis_stream_queue.cli.top import LEAST, POOLS, STREAMS, WORKERS

HEADING = "message", "stream", "task", "runs for"
ROWS = [("1795819348439-19", "a-long-name-" * 4, "", "12.7 s"), ("1-0", "消費", "", "1 ms")]


@pytest.mark.parametrize("columns", [200, 60, 30])
def test_an_id_is_whole_however_narrow_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "__stdout__", terminal)
        show_table(HEADING, ROWS)
        terminal.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)

    assert "1795819348439-19" in shown
    assert "runs for" in shown
    assert "task" not in shown  # nothing is in this column


def test_columns_of_wide_characters_are_straight() -> None:
    lines = list(text_table(["held by", "n"], [["消費", 1], ["ab", 2]]))
    assert lines == ["held by  n", "消費     1", "ab       2"]


@pytest.mark.parametrize("heading", [STREAMS, POOLS, WORKERS])
def test_the_top_of_a_narrow_terminal_keeps_what_matters(heading: tuple[str, ...]) -> None:
    row = ["1795819348439-19" if name == "runs" else "12.7 s" for name in heading]
    [(kept, [cells])] = _narrowed([(heading, [row])], LEAST, 40)

    assert len(kept) == len(cells) >= 3
    assert {"stream", "busy", "runs"} & set(kept)
    [(kept, _)] = _narrowed([(heading, [row])], LEAST, 200)
    assert kept == list(heading)
