"""``--version``: an option of each command line that says which version is installed."""

from __future__ import annotations

import functools
import importlib.metadata

import click


@functools.cache
def version() -> str:
    """As in the package's metadata; "unknown" where it runs without being installed."""
    try:
        return importlib.metadata.version("redis-stream-queue")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _show(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"{context.find_root().info_name}, version {version()}")
        context.exit()


# Unlike click's own it reads the metadata when it is asked, not at every start.
version_option = click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show,
    help="Show the version and exit.",
)
