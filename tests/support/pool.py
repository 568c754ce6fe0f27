"""A real rsq-pool on an app of the test's own: start it, read what it says, signal it, end it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from . import leaks
from .waiting import wait_until

MARK = "RSQ_TEST_POOL"  # environment variable, inherited by all processes of one pool
READY = "ready after"  # in the log (level info) once every worker has started
READY_TIMEOUT_S = 15.0
LEAVE_TIMEOUT_S = 5.0
ROOT = Path(__file__).resolve().parents[2]
_WORKER = re.compile(r"rsq-worker-(\d+)\Z")


class PoolProcess:
    """``rsq-pool ARGS... app:handler`` in a process of its own.

    >>> with PoolProcess(SOURCE, "--workers", "2", url=redis_url, cwd=tmp_path) as pool:
    ...     pool.wait_ready()

    app_source: text of ``app.py``, written to ``cwd``; None = leave the directory as it is.
    args: options of rsq-pool. target: what it runs; None = not given.
    url: handed over as REDIS_URL; None = not given.
    cwd: directory of its own for the app and for what the pool says.
    env: further environment variables. stdin: its standard input.
    shell: redirections, as in ``2>&-``. log_dir: for what it says, if not ``cwd``.
    """

    def __init__(
        self,
        app_source: str | None,
        *args: str,
        url: str | None,
        cwd: Path,
        target: str | None = "app:handler",
        env: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        shell: str = "",
        log_dir: Path | None = None,
    ) -> None:
        if app_source is not None:
            (cwd / "app.py").write_text(app_source)
        self._mark = uuid.uuid4().hex
        self._stdout = (log_dir or cwd) / f"pool-{self._mark[:6]}.stdout"
        self._stderr = (log_dir or cwd) / f"pool-{self._mark[:6]}.stderr"
        self.command = [sys.executable, "-m", "redis_stream_queue.cli.rsq_pool", *args]
        self.command += [target] if target is not None else []
        if shell:
            self.command = ["sh", "-c", f'exec "$@" {shell}', "sh", *self.command]
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                self.command,
                cwd=cwd,
                env={**plain_environment(url), **(env or {}), MARK: self._mark},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # a Ctrl-C is for pytest
            )

    # -- what it says --------------------------------------------------------------------------

    @property
    def stdout_name(self) -> str:
        """Name of the file that its standard output is."""
        return self._stdout.name

    @property
    def stderr_name(self) -> str:
        """Name of the file that its standard error is."""
        return self._stderr.name

    @property
    def stdout(self) -> str:
        """Standard output so far; the app's prints go there."""
        return self._stdout.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error so far: the log."""
        return self._stderr.read_text(errors="replace")

    def wait_log(self, pattern: str, timeout_s: float = READY_TIMEOUT_S) -> re.Match[str]:
        """Wait until the log holds this regular expression; fails if the pool ends first."""

        def look() -> re.Match[str] | None:
            ended = not self.alive  # first, or its last words would be missed
            found = re.search(pattern, self.stderr)
            assert found or not ended, f"the pool ended without saying {pattern!r}.{self._says()}"
            return found

        try:
            found = wait_until(look, timeout_s, f"the pool says {pattern!r}")
        except AssertionError as error:
            if "not within" in str(error):
                raise AssertionError(f"{error}{self._says()}") from None
            raise
        assert found is not None
        return found

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Wait until every worker has started; needs the log level info."""
        self.wait_log(READY, timeout_s)
        return self

    def _says(self) -> str:
        return f"\nexit code: {self.process.poll()}\nstandard error:\n{self.stderr[-4000:]}"

    # -- its processes -------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Does the master live?"""
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """All living processes of this pool, also those that lost their parent."""
        mark = f"{MARK}={self._mark}".encode()
        mine = []
        for pid in psutil.pids():
            try:  # plain reads: tests poll this, and psutil takes five times as long for each
                with open(f"/proc/{pid}/environ", "rb") as environment:
                    if mark in environment.read():
                        mine.append(psutil.Process(pid))
            except (OSError, psutil.Error):  # it has ended, or is another user's
                continue
        return mine

    def workers(self) -> list[int]:
        """Pids of the living workers in the order of their slots."""
        slots: list[tuple[int, int]] = []
        for process in self.processes():
            try:
                name = process.name()
            except psutil.Error:
                continue
            if found := _WORKER.match(name):
                slots.append((int(found[1]), process.pid))
        return [pid for _, pid in sorted(slots)]

    def template(self) -> int | None:
        """Pid of the process that forks the workers."""
        for process in self.processes():
            try:
                if process.name() == "rsq-template":
                    return process.pid
            except psutil.Error:
                continue
        return None

    # -- its end -------------------------------------------------------------------------------

    def send(self, number: int) -> None:
        """Send a signal to the master."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Wait until the master has ended; returns its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the pool did not end in {timeout_s:g} s.{self._says()}"
            ) from None

    def drain(self, timeout_s: float = READY_TIMEOUT_S) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def close(self) -> None:
        """End it whatever it does and leave no process of it behind; safe twice."""
        if self.alive:
            self.send(signal.SIGCONT)
            self.send(signal.SIGQUIT)
            try:
                self.process.wait(LEAVE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        wait_until(self._kill_all, LEAVE_TIMEOUT_S, "no process of the pool is left")

    def _kill_all(self) -> bool:
        """Kill what lives; True if nothing does."""
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        if error is not None:  # pytest shows it with the failure
            print(f"--- {' '.join(self.command)}{self._says()}")


def plain_environment(url: str | None) -> dict[str, str]:
    """Our environment variables without those that would change a command's settings."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RSQ_") and k != "REDIS_URL"}
    if leaks.MARK in os.environ:  # the leak check finds processes by it
        env[leaks.MARK] = os.environ[leaks.MARK]
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    if url is not None:
        env["REDIS_URL"] = url
    return env
