"""rsq: put messages into streams, see how they are doing, look after what is scheduled or dead."""

from __future__ import annotations

import click

from .._version import version_option
from .completion import completion
from .consumers import consumers
from .control import cancel, pause, resume, show
from .cron import cron
from .dlq import dlq
from .doctor import doctor
from .health import health
from .later import later
from .output import Group
from .pending import pending
from .push import push
from .running import running
from .stats import stats
from .systemd import systemd


@click.group(cls=Group)
@version_option
def main() -> None:
    """Put messages into streams, see how they are doing, look after what is scheduled or dead.

    Exit codes: 0 done, 1 failure or bad health, 2 usage, 3 the serializer could not be loaded, 4
    Redis unreachable or refusing us.
    """


for _command in (
    push,
    stats,
    show,
    cancel,
    pause,
    resume,
    running,
    pending,
    health,
    doctor,
    later,
    cron,
    dlq,
    consumers,
    systemd,
    completion,
):
    main.add_command(_command)
