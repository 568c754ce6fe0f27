"""rsq: put messages into streams, see how the streams are doing, look after dead letters."""

from __future__ import annotations

import click

from .._version import version_option
from .dlq import dlq
from .output import Group
from .push import push
from .stats import stats


@click.group(cls=Group)
@version_option
def main() -> None:
    """Put messages into streams, see how the streams are doing, look after dead letters.

    Exit codes: 0 done, 1 failure, 2 usage, 3 the serializer could not be loaded, 4 Redis
    unreachable or refusing us.
    """


for _command in (push, stats, dlq):
    main.add_command(_command)
