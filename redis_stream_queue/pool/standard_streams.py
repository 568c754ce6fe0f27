"""Standard input, output and error of a process that was started without one of them.

Old init scripts and daemonizers close them. The next file that is opened would get such a number,
and whatever is printed, or read by a child, would go to it.
"""

from __future__ import annotations

import os
import sys


def open_those_closed() -> None:
    """Let /dev/null stand in; call it before any other file is opened to stay."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(null, True)
        if getattr(sys, name) is None:
            stream = open(number, mode, errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
