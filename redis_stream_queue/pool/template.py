"""The template: a small process with one thread and no connection that forks the workers.

A fork of it never copies an event loop, an open connection or a lock. So a worker can be replaced
after years as safely as at start. The template reaps its workers, tells the master how they ended,
and ends when the master is gone.
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
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

from .._loading import load
from .._log import logger
from ..exceptions import RedisStreamError
from . import _linux, logs, signals
from .directory import enter_again
from .pipe import MAX_MESSAGE
from .protocol import Exited, Fork, Forked, ForkFailed, WorkerSpec, decode, encode
from .scoreboard import Scoreboard
from .worker.process import worker_main

log = logger(__name__)

FDS = 3  # file descriptors that come with a request: control pipe, metrics pipe, scoreboard


def template_main(sock: socket.socket) -> NoReturn:
    """Serve fork requests until the master is gone. sock: the template's end of their pipe."""
    _linux.set_process_name("rsq-template")
    sock.setblocking(True)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_w, False)
    _take_signals(wake_w)
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    selector.register(wake_r, selectors.EVENT_READ)
    imported: set[str] = set()
    try:
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    raw, fds, _, _ = socket.recv_fds(sock, MAX_MESSAGE, FDS)  # (it ignores flags)
                    for fd in fds:  # programs that a handler starts must not inherit a pipe
                        os.set_inheritable(fd, False)
                    if not raw:
                        os._exit(0)
                    request = decode(raw)
                    if isinstance(request, Fork):
                        if request.spec.preload and request.spec.target not in imported:
                            imported.add(request.spec.target)
                            _preload(request.spec)
                            _take_signals(wake_w)  # the app may have taken them
                        _fork(request, fds, sock, selector, (wake_r, wake_w))
                else:
                    os.read(wake_r, 4096)
                    _reap(sock)
    except ConnectionError:  # the master is gone
        os._exit(0)


def _take_signals(wake_w: int) -> None:
    signals.do_nothing(*signals.NOT_FOR_WORKERS)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)


def _preload(spec: WorkerSpec) -> None:
    """Import the app in the template, so that its workers share the memory.

    If the import fails, each worker tries it again and tells the master why it cannot load.
    """
    logs.set_up(spec.log_level, spec.log_format, "template")
    enter_again(spec.directory)
    with suppress(RedisStreamError):
        load(spec.target)
    main = threading.main_thread()
    others = [thread.name for thread in threading.enumerate() if thread is not main]
    if others:
        log.warning(
            "importing %r has started thread(s) %s, which no worker has: start them in the "
            "handler, or leave --preload out",
            spec.target,
            ", ".join(others[:5]),
        )
    gc.collect()
    gc.freeze()  # else a collection in a worker would write to the shared memory, and so copy it


def exec_main(sock_fd: int, ignored: str) -> NoReturn:
    """template_main() in a fresh process, for an app whose code has changed.

    sock_fd: descriptor of its end of the pipe. ignored: numbers of the signals that the master was
    started with ignored, with spaces between them.
    """
    os.set_inheritable(sock_fd, False)
    for number in ignored.split():
        signal.signal(int(number), signal.SIG_IGN)
    template_main(socket.socket(fileno=sock_fd))


def _fork(
    request: Fork,
    fds: list[int],
    sock: socket.socket,
    selector: selectors.BaseSelector,
    wakeup: tuple[int, int],
) -> None:
    try:
        if len(fds) < FDS:  # the kernel drops descriptors above the limit of this process
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = os.fork()
    except OSError as error:
        for fd in fds:
            os.close(fd)
        sock.send(encode(ForkFailed(request.slot, request.life, str(error))))
        return
    if pid:
        for fd in fds:
            os.close(fd)
        sock.send(encode(Forked(request.slot, request.life, pid)))
        return
    # In the child. It closes the template's sockets first: else no peer would ever see an EOF.
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        selector.close()
        sock.close()
        for fd in wakeup:
            os.close(fd)
        random.seed()
        control, metrics, scoreboard_fd = fds
        code = worker_main(
            socket.socket(fileno=control),
            Connection(metrics, readable=False),
            Scoreboard(scoreboard_fd),
            request.slot,
            request.spec,
        )
    except BaseException:  # also a SystemExit of the app's code: it must not end unlogged
        log.critical("the worker process failed", exc_info=True)
    finally:  # nothing may return into the template's loop
        with suppress(BaseException):  # the app may have put anything in place of the streams
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reap(sock: socket.socket) -> None:
    for ended in _linux.ended_children():
        sock.send(encode(Exited(*ended)))
