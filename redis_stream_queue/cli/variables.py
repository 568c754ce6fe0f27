"""Environment variables that look like a setting of ours but are none."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator

import click

PREFIX = "RSQ_"
OTHERS = {"RSQ_EMBEDDED_SERVER", "RSQ_WORKER_PID", "RSQ_URL"}
NOT_MEANT = "RSQ_TEST_"  # of a test suite's own


def unknown_variables(options: Iterable[click.Parameter]) -> Iterator[str]:
    """One sentence for each that no option reads, with the name that may have been meant."""
    known = OTHERS | {f"{PREFIX}{option.name}".upper() for option in options if option.name}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(NOT_MEANT):
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else "rsq-pool --help names the options."
            yield f"the environment variable {name} is no setting of rsq-pool: {hint}"
