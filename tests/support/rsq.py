"""Runs ``rsq`` as a user does: as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from .guarded import SECRET
from .pool import plain_environment

RSQ = [sys.executable, "-m", "redis_stream_queue.cli"]
MOST_S = 60.0


def rsq(
    *args: str,
    url: str | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; fails if it prints a traceback or the secret of a test.

    url: REDIS_URL, None = not set. stdin: bytes that are piped in, None = nothing.
    """
    done = subprocess.run(
        [*RSQ, *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        env={**plain_environment(url), **(env or {})},
        timeout=MOST_S,
    )
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback" not in stderr, stderr
    assert SECRET not in stderr + stdout
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)
