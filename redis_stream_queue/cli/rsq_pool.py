"""rsq-pool: arguments, exit codes, one clear sentence when something is wrong."""

from __future__ import annotations

import gc
import sys

if gc.isenabled():  # saves a tenth of the start: nothing that is imported here is garbage
    gc.disable()

from typing import Any

import click

from .. import _exits
from .._log import logger
from .._options import BESIDE_URL, PRINT_CONFIG, TARGET, URL_FILE
from .._pool_config import OPTIONS, PoolConfig
from .._version import version_option
from ..exceptions import RedisStreamError

if sys.platform != "linux":  # the pool's modules cannot even be imported there
    sys.exit("rsq-pool: a pool needs Linux. The library and rsq run here, too.")

from ..pool import logs, signals, standard_streams
from ..pool.pool import Pool
from .config_file import config_option, lines_of
from .options import click_option
from .output import Command, complain, say
from .url import forget, hide_password, url_options
from .variables import unknown_variables

log = logger("redis_stream_queue.cli.rsq_pool")  # __name__ may be __main__


def _found_url(url: str) -> None:
    standard_streams.open_those_closed()  # first: a message may be printed before the pool runs
    hide_password(url, "redis_stream_queue.cli.rsq_pool")


def _all_options(command: Any) -> Any:
    """Add an option for each field of PoolConfig, and those that name files with values."""
    for option in reversed(OPTIONS):
        if option.name != "url":
            command = click_option(option)(command)
            continue
        command = url_options(_found_url)(command)
        command = click_option(PRINT_CONFIG)(command)
        command = config_option([TARGET, URL_FILE, *OPTIONS])(command)
    return command


@click.command(cls=Command, context_settings={"show_default": True})
@click.argument("target", nargs=-1, required=True, envvar=TARGET.environment)
@_all_options
@version_option
def main(print_config: bool, **options: Any) -> None:
    """Run each TARGET (module:function) in worker processes, fed from a Redis stream.

    \b
      rsq-pool --workers 8 app:handler
      rsq-pool app:orders=6 app:payments=2
      rsq-pool --stream orders --burst app:handler

    Signals: TERM or INT drain, a second one gives back and leaves; QUIT leaves at once; HUP loads
    fresh code; TTIN and TTOU add and remove a worker; TSTP starts nothing new until CONT; USR1 logs
    the status. Exit codes: 0 clean, 1 failure, 2 usage, 3 the app could not be loaded, 4 Redis
    unreachable, refusing us or too old at start.
    """
    context = click.get_current_context()
    try:
        config = PoolConfig(**options)
        if print_config:
            say(*lines_of(context, [TARGET, *OPTIONS]))
            return
    except RedisStreamError as error:
        complain("rsq-pool", str(error))
        sys.exit(_exits.USAGE)
    forget()
    logs.set_up(options["log_level"], options["log_format"], "master")
    for sentence in unknown_variables([TARGET, *BESIDE_URL, *OPTIONS]):
        log.warning("%s", sentence)
    try:
        code = Pool(config).run()
        signals.hold_ends()
    except RedisStreamError as error:
        complain("rsq-pool", str(error))
        code = _exits.USAGE
    sys.exit(code)


gc.freeze()
gc.enable()

if __name__ == "__main__":
    main(prog_name="rsq-pool")
