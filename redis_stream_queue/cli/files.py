"""Files of a user's that are read whole, whatever they turn out to be."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path

from ..exceptions import ConfigError

MOST_BYTES = 1_000_000
PIPE_S = 30  # whoever writes into a pipe may have to ask others first


def content(path: Path, pipe_s: float = PIPE_S) -> str:
    """The text in a file or a pipe. Raises ConfigError, a sentence that begins with its verb.

    pipe_s: how long a pipe may be silent.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                _wait_for_data(file.fileno(), pipe_s)
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ConfigError(f"is larger than {MOST_BYTES // 1_000_000} MB.")
        return raw.decode("utf-8-sig")  # some editors put a BOM there
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError("cannot be read: it is not UTF-8.") from None
    except ConfigError:  # (which is a ValueError)
        raise
    except ValueError as error:  # no file can have such a name
        raise ConfigError(f"cannot be read: {error}.") from None


def _at_once(path: str, flags: int) -> int:
    """Open it also where it is a pipe that nobody writes into."""
    opened = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(opened, True)
    return opened


def _wait_for_data(pipe: int, most_s: float) -> None:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(most_s * 1000):
        raise ConfigError("cannot be read: it is a pipe, and nobody writes into it.")
