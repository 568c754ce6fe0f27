"""Runs rsq as a user does, and looks at what it did."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.pool import plain_environment
from tests.support.rsq import RSQ
from tests.support.servers import Server
from tests.support.waiting import wait_until

ID = re.compile(r"\d+-\d+")
WAIT_S = 15.0


@contextmanager
def piped(*args: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """An rsq whose standard input stays open; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*RSQ, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plain_environment(url),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def feed(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence on standard error."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [
        line for line in done.stderr.splitlines() if line and not line.startswith(("Usage", "Try"))
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]


def payloads(server: Server, key: str = "orders") -> list[bytes]:
    with server.client() as client:
        entries: Any = client.xrange(key)
    return [fields[b"data"] for _, fields in entries]


def length(server: Server, key: str = "orders") -> int:
    with server.client() as client:
        return int(client.xlen(key))


def wait_for_length(server: Server, wanted: int) -> None:
    wait_until(lambda: length(server) == wanted, WAIT_S, f"{wanted} message(s) are there")
