"""The directory that a pool was started in, also when a deploy has put another one in its place."""

from __future__ import annotations

import os


def started_in() -> str:
    """The path of the current directory as the shell knows it (``$PWD``).

    A symlink in it, such as ``current``, is not resolved: a later start follows it anew. Raises
    FileNotFoundError if the directory has been removed.
    """
    here, shown = os.getcwd(), os.environ.get("PWD", "")
    same = os.path.isabs(shown) and os.path.isdir(shown) and os.path.samefile(shown, here)
    return shown if same else here


def enter_again(path: str) -> None:
    """If the current directory has been removed, change to the one that is at this path now."""
    try:
        os.getcwd()
    except FileNotFoundError:
        if os.path.isdir(path):
            os.chdir(path)
