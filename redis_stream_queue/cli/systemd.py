"""rsq systemd: a unit file for a pool."""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

import click

from .._loading import split_target
from ..exceptions import ConfigError
from .output import say

TEMPLATE = "rsq-pool@.service"
SETTINGS = """\
# Settings of the pool stand in /etc/rsq/{name}.env, readable by root alone (chmod 600):
#     REDIS_URL=redis://localhost:6379/0
# Every option of rsq-pool can stand there, as RSQ_<OPTION>.
"""


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path,
    show_default="the current one",
    help="Where the app is.",
)
@click.option("--name", help="Of the service.  [default: the directory's name]")
@click.option("--user", help="User that it runs as.  [default: one that exists while it runs]")
def systemd(targets: tuple[str, ...], directory: Path, name: str | None, user: str | None) -> None:
    """Print a unit file for systemd that runs each TARGET (module:function, or =N for so many
    workers behind it) in this environment.

    \b
      rsq systemd app:handler > /etc/systemd/system/orders.service
      systemctl daemon-reload && systemctl enable --now orders
    """
    try:
        for target in targets:
            split_target(target)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    directory = directory.resolve()
    name = name or directory.name or "app"
    for option, value in (("--name", name), ("--user", user or "root")):
        if not re.fullmatch(r"[\w.-]+", value, re.ASCII):
            raise click.UsageError(
                f"{option}: expected letters, digits, '_', '.' and '-', got {value!r}."
            )
    say(*_unit(" ".join(targets), directory, name, user).splitlines())


def _unit(target: str, directory: Path, name: str, user: str | None) -> str:
    unit = files(__package__).joinpath(TEMPLATE).read_text()
    unit = "[Unit]" + unit.partition("\n[Unit]")[2]
    unit = re.sub("^# CHANGE: where the apps live.*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("%i", name)  # first: a path may hold that, too
    unit = _set(unit, "WorkingDirectory", _literal(directory))
    command = f'"{_literal(Path(sys.prefix, "bin", "rsq-pool"))}" {target}'
    unit = _set(unit, "ExecStart", command)
    if user:
        unit = re.sub("^# CHANGE: User=.*\n", "", unit, flags=re.MULTILINE)
        unit = unit.replace("\nDynamicUser=yes\n", f"\nUser={user}\n")
    return f"{SETTINGS.format(name=name)}\n{unit}"


def _literal(path: Path) -> str:
    """The path with each % doubled: systemd would replace ``%`` and a letter."""
    return str(path).replace("%", "%%")


def _set(unit: str, key: str, value: str) -> str:
    return re.sub(f"^{key}=.*$", lambda _: f"{key}={value}", unit, flags=re.MULTILINE)
