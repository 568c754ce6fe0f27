"""Starts the template, asks it for workers, waits for all child processes, kills.

The first template is forked: that takes a few ms, and it shares the master's memory. Later ones are
started as new programs: the master runs an event loop by then, and such a process must not fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

from .. import _linux, metrics_pipe, pipe, signals
from ..directory import started_in
from ..orphans import Orphans
from ..protocol import Exited, Fork, Forked, ForkFailed, Message, WorkerSpec, decode, encode
from ..scoreboard import Scoreboard
from ..template import template_main

# The new process has the arguments and the path of the master. While our modules are imported, the
# directory of the app comes last in the path: so no file of the app can take the place of a module.
OURS_FIRST = """
import sys
_, sock, ignored, here, path, *sys.argv = sys.argv
path = path.split("\\n")
sys.path[:] = sorted(path, key=lambda directory: directory in ("", here))
"""
TEMPLATE = f"""
{OURS_FIRST}
from redis_stream_queue.pool.template import exec_main
sys.path[:] = path
exec_main(int(sock), ignored)
"""
WATCHER = f"""
{OURS_FIRST}
from redis_stream_queue.pool.watcher import watch_main
watch_main(int(sock), here, since)
"""


@dataclass(eq=False)
class HelperProcess:
    """A template, or the process that watches files.

    sock: our end of the pipe to it. process: None = it was forked.
    """

    sock: socket.socket
    pid: int
    process: subprocess.Popen[bytes] | None = None


class Spawner:
    """Starts processes and waits for them.

    on_forked(slot, life, pid), on_fork_failed(slot, life, error), on_exit(pid, status, cpu_ms),
    on_template_death(how): called in the loop. orphans: ends what workers leave. others: pids of
    templates and watcher. trial_ended: how the template on trial has ended; "" = it lives.
    """

    def __init__(self) -> None:
        self.directory = started_in()
        self.orphans = Orphans()
        self.others: set[int] = set()
        self.on_forked: Callable[[int, int, int], None] = lambda *_: None
        self.on_fork_failed: Callable[[int, int, str], None] = lambda *_: None
        self.on_exit: Callable[[int, int, int], None] = lambda *_: None
        self.on_template_death: Callable[[str], None] = lambda _: None
        self.trial_ended = ""
        self._template: HelperProcess | None = None
        self._trial: HelperProcess | None = None  # with fresh code, until that has started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_in = os.getcwd()
        self._began_s = time.time()
        self._path = list(sys.path)
        self._ignored = signals.ignored()

    # -- the template --------------------------------------------------------------------------

    def start_before_loop(self) -> None:
        """Start the first template; call this before any event loop or thread exists.

        Raises OSError if the system cannot start another process.
        """
        if threading.active_count() > 1:
            self._template = self._exec(TEMPLATE)
            return
        gc.freeze()  # else a collection would write to the shared memory, and so copy it
        mine, theirs = pipe.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            mine.close()
            template_main(theirs)
        theirs.close()
        self._template = HelperProcess(mine, pid)
        self.others.add(pid)

    def start_watcher(self) -> socket.socket:
        """Start the process that watches files; returns the socket on which it tells of changes.

        Raises OSError if the system cannot start another process.
        """
        return self._exec(f"since = {self._began_s!r}\n{WATCHER}").sock

    def _exec(self, program: str) -> HelperProcess:
        """Start a Python process in the pool's directory, as its path leads to it now."""
        here = self.directory if os.path.isdir(self.directory) else None
        path = [here if here and entry == self._started_in else entry for entry in self._path]
        mine, theirs = pipe.pair()
        ignored = " ".join(map(str, self._ignored))
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, *options, "-c", program),
                    *(str(theirs.fileno()), ignored, here or "", "\n".join(path), *sys.argv),
                ],
                pass_fds=[theirs.fileno()],
                cwd=here,
            )
        except BaseException:  # a Ctrl-C, too
            mine.close()
            raise
        finally:
            theirs.close()
        self.others.add(process.pid)
        return HelperProcess(mine, process.pid, process)

    @property
    def has_template(self) -> bool:
        """Is there a template, as far as the master knows?"""
        return self._template is not None

    def attach(self) -> None:
        """Begin to listen to the template and to the end of children; call this in the loop."""
        self._loop = asyncio.get_running_loop()
        _linux.become_subreaper()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        if self._template is not None:
            self._listen(self._template)
        self._reap()

    def replace_template(self) -> None:
        """Start a template in place of one that has died.

        Raises OSError if the system cannot start another process.
        """
        self._template = self._exec(TEMPLATE)
        self._listen(self._template)

    def try_template(self) -> None:
        """Start a second template, for workers on trial.

        Raises OSError if the system cannot start another process.
        """
        self._trial, self.trial_ended = self._exec(TEMPLATE), ""
        self._listen(self._trial)

    def keep_trial(self) -> bool:
        """Replace the old template by the one on trial; returns False if that one has died.

        The workers of the old one live on.
        """
        if self._trial is None:
            return False
        if self._template is not None:  # it ends when it has told which workers have ended
            with contextlib.suppress(OSError):  # it has ended
                self._template.sock.shutdown(socket.SHUT_WR)
        self._template, self._trial = self._trial, None
        return True

    def drop_trial(self) -> None:
        """End the template on trial, also if it imports the app and hears nothing; the old one
        stays."""
        if self._trial is not None:
            self._drop(self._trial)
            self.kill(self._trial.pid)
            self._trial = None

    def _listen(self, template: HelperProcess) -> None:
        assert self._loop is not None
        template.sock.setblocking(False)
        self._loop.add_reader(template.sock.fileno(), self._readable, template)

    def _readable(self, template: HelperProcess) -> None:
        while template.sock.fileno() >= 0:
            try:
                raw = template.sock.recv(pipe.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._drop(template)  # _reap() notes that the process has ended
                return
            self._dispatch(decode(raw))

    def _dispatch(self, message: Message | None) -> None:
        if isinstance(message, Forked):
            self.on_forked(message.slot, message.life, message.pid)
        elif isinstance(message, ForkFailed):
            self.on_fork_failed(message.slot, message.life, message.error)
        elif isinstance(message, Exited):
            self._ended(message.pid, message.status, message.cpu_ms)

    def _ended(self, pid: int, status: int, cpu_ms: int) -> None:
        self.on_exit(pid, status, cpu_ms)
        self.orphans.look()

    def _drop(self, template: HelperProcess) -> None:
        """Close the pipe to a template, which then ends."""
        if template.sock.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(template.sock.fileno())
            template.sock.close()

    # -- workers -------------------------------------------------------------------------------

    def fork(
        self, slot: int, life: int, spec: WorkerSpec, scoreboard: Scoreboard, *, on_trial: bool
    ) -> tuple[socket.socket, Connection] | None:
        """Ask the template for a worker; None if there is no template now.

        on_trial: ask the template on trial. Returns our ends of the worker's two pipes, for control
        and for metrics. Raises OSError if the system has no more file descriptors.
        """
        template = self._trial if on_trial else self._template
        if template is None or template.sock.fileno() < 0:
            return None
        request = encode(Fork(slot, life, spec._replace(directory=self.directory)))
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            mine, sock = pipe.pair()
            ours.callback(mine.close)
            theirs.callback(sock.close)
            reader, writer = metrics_pipe.pipe()
            ours.callback(reader.close)
            theirs.callback(writer.close)
            fds = [sock.fileno(), writer.fileno(), scoreboard.fd]
            try:
                socket.send_fds(template.sock, [request], fds)
            except ConnectionError:  # it has just ended
                return None
            ours.pop_all()
            return mine, reader

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a worker that may be gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def exists(self, pid: int) -> bool:
        """Is there still a process of this pid, one that has ended and was not reaped included?"""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _reap(self) -> None:
        """Wait for children that have ended: templates, and orphans of templates and workers."""
        for pid, status, cpu_ms in _linux.ended_children():
            self.others.discard(pid)
            if self._template is not None and pid == self._template.pid:
                self._template_ended(self._template, status)
                self._template = None
                self.on_template_death(how_it_ended(status))
            elif self._trial is not None and pid == self._trial.pid:
                self._template_ended(self._trial, status)
                self._trial, self.trial_ended = None, how_it_ended(status)
            else:
                self._ended(pid, status, cpu_ms)

    def _template_ended(self, template: HelperProcess, status: int) -> None:
        if template.process is not None:
            template.process.returncode = os.waitstatus_to_exitcode(status)
        self._readable(template)  # what it has still sent
        self._drop(template)

    def close(self) -> None:
        """End templates and watcher, whatever they do; waits for the template."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGCHLD)
        for pid in self.others:
            self.kill(pid)
        if self._trial is not None:
            self._drop(self._trial)
        if self._template is not None:
            self._drop(self._template)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._template.pid, 0)
            if self._template.process is not None:
                self._template.process.returncode = 0
            self._template = None


def how_it_ended(status: int) -> str:
    """A wait status in words, such as ``exit code 1`` or ``killed by SIGTERM``."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", possibly out of memory" if name == "SIGKILL" else "")
