"""Runs rsq as a user does, and looks at what it did."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.guarded import SECRET
from tests.support.pool import plain_environment
from tests.support.servers import Server
from tests.support.waiting import wait_until

COMMAND = [sys.executable, "-m", "redis_stream_queue.cli"]
ID = re.compile(r"\d+-\d+")
WAIT_S = 15.0


def rsq(
    *args: str,
    url: str | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. stdin: what is piped in; None = nothing."""
    done = subprocess.run(
        [*COMMAND, *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        env={**plain_environment(url), **(env or {})},
        timeout=WAIT_S * 2,
    )
    stderr = done.stderr.decode(errors="replace")
    assert "Traceback" not in stderr, stderr
    assert SECRET not in stderr + done.stdout.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), stderr)


@contextmanager
def piped(*args: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """An rsq whose standard input stays open; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *args],
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
