"""Environment variables that look like a setting of ours but are none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .._options import PREFIX, Option
from .._validate import did_you_mean

OTHERS = {"RSQ_EMBEDDED_SERVER", "RSQ_WORKER_PID", "RSQ_URL"}
NOT_MEANT = "RSQ_TEST_"  # of a test suite's own


def unknown_variables(options: Iterable[Option]) -> Iterator[str]:
    """One sentence for each that no option reads, with the name that may have been meant."""
    known = OTHERS.union(*(option.environment for option in options))
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(NOT_MEANT):
            hint = did_you_mean(name, known) or " rsq-pool --help names the options."
            yield f"the environment variable {name} is no setting of rsq-pool.{hint}"
