"""The template: a small process with one thread and no connection that forks the workers.

A fork from it never copies an event loop, an open connection or a lock, so a worker can be replaced
years later as safely as at start. It reaps its workers, tells the master how they ended, and ends
with the master.
"""

from __future__ import annotations

import errno
import gc
import os
import random
import selectors
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

from .._log import logger
from . import _linux, signals
from .pipe import MAX_MESSAGE
from .protocol import Exited, Fork, Forked, ForkFailed, decode, encode
from .scoreboard import Scoreboard
from .worker.process import worker_main

log = logger(__name__)


def template_main(sock: socket.socket, scoreboard_fd: int) -> NoReturn:
    """Serve fork requests until the master is gone."""
    _linux.set_process_name("rsq-template")
    sock.setblocking(True)
    signals.do_nothing(*signals.NOT_FOR_WORKERS)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    selector.register(wake_r, selectors.EVENT_READ)
    try:
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    raw, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, 2)  # (it ignores flags)
                    for fd in fds:  # what a handler starts must not keep a pipe of ours open
                        os.set_inheritable(fd, False)
                    if not raw:
                        os._exit(0)
                    request = decode(raw)
                    if isinstance(request, Fork):
                        _fork(request, fds, sock, selector, (wake_r, wake_w), scoreboard_fd)
                else:
                    os.read(wake_r, 4096)
                    _reap(sock)
    except ConnectionError:  # the master is gone
        os._exit(0)


def exec_main(sock_fd: int, scoreboard_fd: int, ignored: str) -> NoReturn:
    """The same in a fresh process. ignored: signals that the master was started with ignored."""
    for fd in (sock_fd, scoreboard_fd):
        os.set_inheritable(fd, False)
    for number in ignored.split():
        signal.signal(int(number), signal.SIG_IGN)
    template_main(socket.socket(fileno=sock_fd), scoreboard_fd)


def _fork(
    request: Fork,
    pipe_fds: list[int],
    sock: socket.socket,
    selector: selectors.BaseSelector,
    wakeup: tuple[int, int],
    scoreboard_fd: int,
) -> None:
    try:
        if len(pipe_fds) < 2:  # the kernel drops what there is no room for
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = os.fork()
    except OSError as error:
        for fd in pipe_fds:
            os.close(fd)
        sock.send(encode(ForkFailed(request.slot, request.life, str(error))))
        return
    if pid:
        for fd in pipe_fds:
            os.close(fd)
        sock.send(encode(Forked(request.slot, request.life, pid)))
        return
    # The child: what belongs to the template must go first, or nobody would ever see an EOF.
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        selector.close()
        sock.close()
        for fd in wakeup:
            os.close(fd)
        random.seed()
        scoreboard = Scoreboard(scoreboard_fd)
        control, metrics = pipe_fds
        code = worker_main(
            socket.socket(fileno=control),
            Connection(metrics, readable=False),
            scoreboard,
            request.slot,
            request.spec,
        )
    except BaseException:  # whatever it was, it is said before the process ends
        log.critical("the worker process failed", exc_info=True)
    finally:  # nothing may return into the template's loop
        with suppress(BaseException):  # what the app made of its streams
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reap(sock: socket.socket) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        sock.send(encode(Exited(pid, status, _linux.cpu_ms_of(usage))))
