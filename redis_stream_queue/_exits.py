"""Exit codes of rsq-pool."""

from __future__ import annotations

OK = 0  # drained, told to leave, or everything handled
FAILURE = 1  # something broke, or --burst made dead letters
USAGE = 2  # an option, a name or a key that cannot work
LOAD_FAILED = 3  # the app could not be loaded
REDIS = 4  # at start: unreachable, refusing us, or too old


class Failure(Exception):
    """The pool cannot go on; the text is one sentence for the user."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
