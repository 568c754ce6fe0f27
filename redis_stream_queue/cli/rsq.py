"""rsq: put messages into streams, see how they are doing, look after what is scheduled or dead."""

from __future__ import annotations

import click

from .._version import version_option
from .dlq import dlq
from .later import later
from .output import Group
from .push import push
from .stats import stats


@click.group(cls=Group)
@version_option
def main() -> None:
    """Put messages into streams, see how they are doing, look after what is scheduled or dead.

    Exit codes: 0 done, 1 failure, 2 usage, 3 the serializer could not be loaded, 4 Redis
    unreachable or refusing us.
    """


for _command in (push, stats, later, dlq):
    main.add_command(_command)
