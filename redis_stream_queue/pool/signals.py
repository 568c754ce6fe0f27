"""What signals do in the pool's processes, and that no child process of a handler inherits it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

PACKAGE = __package__.partition(".")[0]
ENDS = (signal.SIGTERM, signal.SIGINT)
NOT_FOR_WORKERS = (  # the master decides; a terminal or a process group may send them to all
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def ignored() -> list[int]:
    """Those of NOT_FOR_WORKERS that this process ignores, as under ``nohup``, for example."""
    return [int(n) for n in NOT_FOR_WORKERS if signal.getsignal(n) is signal.SIG_IGN]


def do_nothing(*numbers: signal.Signals) -> None:
    """Let these signals do nothing in this process.

    They are handled by a function, not ignored: a program that is started would inherit that. Only
    a signal that is ignored already stays ignored.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _nothing)


def _nothing(*_: object) -> None:
    pass


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold back the signals of NOT_FOR_WORKERS; those sent meanwhile arrive at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def hold_ends() -> None:
    """Hold back what asks for an end that has come: without a handler it would kill us."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)


def forget_ends() -> None:
    """Forget what hold_ends() has held back, and hold it back no more."""
    while signal.sigtimedwait(ENDS, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)


def keep_from_children() -> None:
    """From now on a forked child of this process starts with Python's own signal handlers."""
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_as_plain_python)


_held = threading.local()


def _hold() -> None:
    """Hold back signals until the child has Python's own handlers."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _as_plain_python() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and str(handler.__module__).startswith(f"{PACKAGE}."):
            plain = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, plain)
    _let_go()
