"""Tells systemd the state of the pool; does nothing without systemd.

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import os
import socket

from ..._plain import plain_cut

MOST_LINE = 400  # characters


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1`` or ``STATUS=...``; a line break in one becomes a space."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            text = "\n".join(plain_cut(line, MOST_LINE, newline=" ") for line in lines)
            sock.sendto(text.encode(), address)
        except OSError:  # the pool goes on also without its service manager
            return


def watchdog_interval_s() -> float | None:
    """How often to send ``WATCHDOG=1``: half of what the unit allows; None = not wanted."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID")
    if not usec.isdigit() or (pid is not None and pid != str(os.getpid())):
        return None
    return int(usec) / 2_000_000
