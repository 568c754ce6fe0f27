"""Environment variables that look like settings of rsq-pool but are none."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from .._options import PREFIX, Option
from .._validate import did_you_mean

OTHERS = {"RSQ_EMBEDDED_SERVER", "RSQ_WORKER_PID", "RSQ_URL"}
NOT_MEANT = "RSQ_TEST_"  # variables of test suites begin so


def unknown_variables(options: Iterable[Option]) -> Iterator[str]:
    """A sentence for each variable that no option reads, with the name that may be meant."""
    known = OTHERS.union(*(option.environment for option in options))
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and not name.startswith(NOT_MEANT):
            hint = did_you_mean(name, known) or " rsq-pool --help names the options."
            yield f"the environment variable {name} is no setting of rsq-pool.{hint}"
