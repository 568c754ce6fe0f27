"""The directory that a pool was started in, also when a deploy has put another one in its place."""

from __future__ import annotations

import os


def started_in() -> str:
    """Its path as the shell knows it (``$PWD``): a symlink such as ``current`` stays one, so that a
    later start finds what it leads to then.

    Raises FileNotFoundError if it has been removed.
    """
    here, shown = os.getcwd(), os.environ.get("PWD", "")
    same = os.path.isabs(shown) and os.path.isdir(shown) and os.path.samefile(shown, here)
    return shown if same else here


def enter_again(path: str) -> None:
    """Go to what is there now if the current directory has been removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        if os.path.isdir(path):
            os.chdir(path)
