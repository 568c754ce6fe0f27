"""The master's side of processes: starts the template, asks it for workers, reaps, kills.

The first template is forked (it shares the master's memory and costs a few ms); later ones are
started fresh, because by then the master runs an event loop, and such a process must not fork.
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
from collections.abc import Callable
from multiprocessing.connection import Connection

from .. import _linux, metrics_pipe, pipe, signals
from ..directory import started_in
from ..orphans import Orphans
from ..protocol import Exited, Fork, Forked, ForkFailed, Message, WorkerSpec, decode, encode
from ..scoreboard import Scoreboard
from ..template import template_main

# The arguments and the path are the master's, as the first template has them. Our own modules are
# found before any file of the app's: its directory comes last while they are imported.
TEMPLATE = """
import sys
_, sock, scoreboard, ignored, here, path, *sys.argv = sys.argv
path = path.split("\\n")
sys.path[:] = sorted(path, key=lambda directory: directory in ("", here))
from redis_stream_queue.pool.template import exec_main
sys.path[:] = path
exec_main(int(sock), int(scoreboard), ignored)
"""


class Spawner:
    """Starts and reaps processes.

    on_forked(slot, life, pid), on_fork_failed(slot, life, error), on_exit(pid, status, cpu_ms),
    on_template_death() are called in the loop.
    """

    def __init__(self, scoreboard: Scoreboard) -> None:
        self.scoreboard = scoreboard
        self.template_pid = 0
        self.directory = started_in()
        self.orphans = Orphans()
        self.templates: set[int] = set()  # old ones, too, until they have ended
        self.on_forked: Callable[[int, int, int], None] = lambda *_: None
        self.on_fork_failed: Callable[[int, int, str], None] = lambda *_: None
        self.on_exit: Callable[[int, int, int], None] = lambda *_: None
        self.on_template_death: Callable[[], None] = lambda: None
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_in = os.getcwd()
        self._path = list(sys.path)
        self._ignored = signals.ignored()

    # -- the template --------------------------------------------------------------------------

    def start_before_loop(self) -> None:
        """Start the first template; call it before any event loop or thread exists.

        Raises OSError where the system has no room for it.
        """
        if threading.active_count() > 1:
            self._sock = self._exec_template()
            return
        gc.freeze()  # or the collector would touch, and so copy, what both sides share
        mine, theirs = pipe.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            mine.close()
            template_main(theirs, self.scoreboard.fd)
        theirs.close()
        self._sock, self.template_pid = mine, pid
        self.templates.add(pid)

    def _exec_template(self) -> socket.socket:
        """Start a fresh one where a symlink leads now; returns our end of its pipe."""
        here = self.directory if os.path.isdir(self.directory) else None
        path = [here if here and entry == self._started_in else entry for entry in self._path]
        mine, theirs = pipe.pair()
        fds = (theirs.fileno(), self.scoreboard.fd)
        ignored = " ".join(map(str, self._ignored))
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, *options, "-c", TEMPLATE),
                    *(*map(str, fds), ignored, here or "", "\n".join(path), *sys.argv),
                ],
                pass_fds=fds,
                cwd=here,
            )
        except BaseException:  # a Ctrl-C, too
            mine.close()
            raise
        finally:
            theirs.close()
        self.template_pid = self._process.pid
        self.templates.add(self.template_pid)
        return mine

    def attach(self) -> None:
        """Begin to listen; call it in the running loop."""
        self._loop = asyncio.get_running_loop()
        _linux.become_subreaper()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._listen()
        self._reap()

    def replace_template(self) -> None:
        """Start a new template; the workers of the old one live on, and so does itself until there
        is a new one. Raises OSError where the system has no room for it."""
        sock = self._exec_template()
        self._drop_socket()
        self._sock = sock
        self._listen()

    def _listen(self) -> None:
        assert self._sock is not None
        assert self._loop is not None
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        while self._sock is not None:
            try:
                raw = self._sock.recv(pipe.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._drop_socket()  # _reap() sees the death itself
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

    def _drop_socket(self) -> None:
        if self._sock is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
            self._sock = None

    # -- workers -------------------------------------------------------------------------------

    def fork(
        self, slot: int, life: int, spec: WorkerSpec
    ) -> tuple[socket.socket, Connection] | None:
        """Ask for a worker; returns our ends of its two pipes, for control and for metrics, or None
        if there is no template now. Raises OSError where the system has no room for it."""
        if self._sock is None:
            return None
        request = encode(Fork(slot, life, spec._replace(directory=self.directory)))
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            mine, sock = pipe.pair()
            ours.callback(mine.close)
            theirs.callback(sock.close)
            reader, writer = metrics_pipe.pipe()
            ours.callback(reader.close)
            theirs.callback(writer.close)
            try:
                socket.send_fds(self._sock, [request], [sock.fileno(), writer.fileno()])
            except ConnectionError:  # it has just ended
                return None
            ours.pop_all()
            return mine, reader

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a worker that may be gone already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _reap(self) -> None:
        """Wait for the template, for workers orphaned by its death, and for their orphans."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.templates.discard(pid)
            if pid == self.template_pid:
                if self._process is not None:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
                    self._process = None
                self.template_pid = 0
                self._readable()  # what it still said
                self._drop_socket()
                self.on_template_death()
            else:
                self._ended(pid, status, _linux.cpu_ms_of(usage))

    def close(self) -> None:
        """End the template and wait for it."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGCHLD)
        self._drop_socket()
        if self.template_pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.template_pid, 0)
            if self._process is not None:
                self._process.returncode = 0
            self.template_pid = 0


def how_it_ended(status: int) -> str:
    """A wait status in words."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", possibly out of memory" if name == "SIGKILL" else "")
