"""Tells systemd the state of the pool; does nothing without systemd.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque

from ..._plain import plain_cut

MOST_LINE = 400  # characters
AGAIN_S = 0.1  # pause before the next try to send what systemd's queue has no room for

_unsent: deque[bytes] = deque(maxlen=50)


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1`` or ``STATUS=...``; a line break in one becomes a space.

    Never waits: what the service manager has no room for is sent when it has.
    """
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    text = "\n".join(plain_cut(line, MOST_LINE, newline=" ") for line in lines).encode()
    if _unsent:
        if text not in _unsent:  # it is a WATCHDOG=1 as a rule
            _unsent.append(text)
        return
    _unsent.append(text)
    _send()


def _send() -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        while _unsent:
            try:
                sock.sendto(_unsent[0], socket.MSG_DONTWAIT, address)
            except BlockingIOError:
                with contextlib.suppress(RuntimeError):  # the loop has ended: these were last words
                    asyncio.get_running_loop().call_later(AGAIN_S, _send)
                return
            except OSError:  # the pool goes on also without its service manager
                pass
            _unsent.popleft()


def watchdog_interval_s() -> float | None:
    """How often to send ``WATCHDOG=1``: half of what the unit allows; None = not wanted."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID")
    if not (usec.isascii() and usec.isdigit()) or (pid is not None and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000 or None
