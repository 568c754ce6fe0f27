"""rsq: put messages into streams, see how they are doing, look after what is scheduled or dead."""

from __future__ import annotations

from importlib import import_module

import click

from .._version import version_option
from .output import Group

# What `rsq --help` and the shell's TAB say of each command; it is imported when it is called.
COMMANDS = {
    "cancel": "Take messages back, those that run, too.",
    "completion": "Print what makes a shell complete rsq and rsq-pool at TAB.",
    "consumers": "Look after the names of consumers in a group.",
    "cron": "Look at periodic messages, push one now, pause one.",
    "dlq": "Look at dead letters, send them back, throw them away.",
    "doctor": "Look the server and a stream over, and say what is wrong.",
    "health": "Say whether a stream is being worked off.",
    "later": "Look at the scheduled messages of a stream, take them back.",
    "pause": "Start no message of a stream any more, on all hosts.",
    "pending": "Show which messages were handed out and are not acknowledged.",
    "push": "Push messages into a stream.",
    "resume": "Go on with a stream after `rsq pause`.",
    "running": "Show what runs now: on which host, and for how long.",
    "show": "Show where a message is: scheduled, waiting, running or dead.",
    "stats": "Show how a stream and its consumer groups are doing.",
    "systemd": "Print a unit file for systemd that runs a pool.",
    "task": "Look at the tasks of a queue, push one.",
    "top": "Show all pools of all hosts, live.",
}
_MODULES = dict.fromkeys(("cancel", "pause", "resume", "show"), "control")


def load(name: str) -> click.Command:
    """Import a subcommand."""
    module = import_module(f".{_MODULES.get(name, name)}", __package__)
    command: click.Command = getattr(module, name)
    return command


class _Subcommands(Group):
    """Knows only name and help of each subcommand, and imports the one that is called."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, found, others = super().resolve_command(ctx, args)
        return name, load(name) if name and found else None, others


@click.group(cls=_Subcommands)
@version_option
def main() -> None:
    """Put messages into streams, see how they are doing, look after what is scheduled or dead.

    Exit codes: 0 done, 1 failure or bad health, 2 usage, 3 the serializer could not be loaded, 4
    Redis unreachable or refusing us.
    """


for _name, _help in COMMANDS.items():
    main.add_command(click.Command(_name, short_help=_help))
