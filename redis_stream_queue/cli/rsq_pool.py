"""rsq-pool: arguments, exit codes, one clear sentence when something is wrong."""

from __future__ import annotations

import sys
from typing import Any

import click

from .. import _exits
from .._log import log
from .._version import version_option
from ..exceptions import RedisStreamError

if sys.platform != "linux":  # the pool's modules cannot even be imported there
    sys.exit("rsq-pool: a pool needs Linux. The library and rsq run here, too.")

from ..pool import logs, standard_streams
from ..pool.config import PoolConfig, default_workers
from ..pool.pool import Pool
from .output import Command, complain
from .url import forget, hide_password, url_options
from .variables import unknown_variables


def _batch_size(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if value.isdecimal() and int(value) >= 1:
        return int(value)
    raise click.BadParameter(f"expected a whole number of 1 or more, or 'auto', got {value!r}.")


def _found_url(url: str) -> None:
    standard_streams.open_those_closed()  # what is printed on the way goes there, too
    hide_password(url, "redis_stream_queue.cli.rsq_pool")


_AT_LEAST_1 = click.IntRange(min=1)
_AT_LEAST_0 = click.IntRange(min=0)


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "RSQ", "show_default": True})
@click.argument("target")
@click.option(
    "--workers",
    type=_AT_LEAST_1,
    default=default_workers,
    show_default="one per core",
    help="Worker processes.",
)
@click.option("--stream", help="Stream to read.  [default: as the handler declares]")
@click.option("--group", help="Consumer group.  [default: <stream>_workers]")
@click.option("--dlq-stream", help="Stream for dead letters.  [default: <stream>_dlq]")
@click.option("--prefix", default="", help="Put before every stream name, with an underscore.")
@click.option("--serializer", help="json, msgpack, pickle or module:object.  [default: json]")
@click.option(
    "--batch-size",
    default="auto",
    callback=_batch_size,
    help="Messages per read: a number, or 'auto' to adapt to how long they take.",
)
@click.option("--max-deliveries", type=_AT_LEAST_1, help="Then a message is dead.  [default: 3]")
@click.option(
    "--min-idle-claim-ms",
    type=_AT_LEAST_1,
    help="Silence after which another host's message counts as abandoned.  [default: 10000]",
)
@click.option("--retry-delay-ms", type=_AT_LEAST_0, help="Before the first retry.  [default: 1000]")
@click.option(
    "--retry-max-delay-ms",
    type=_AT_LEAST_0,
    help="The delay doubles up to this.  [default: 60000]",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds a message may run; then its worker is killed.  [default: none]",
)
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which SoftTimeLimitExceeded is raised in the handler.  [default: none]",
)
@click.option(
    "--max-messages-per-child",
    type=_AT_LEAST_1,
    help="Messages after which a worker is replaced.  [default: none]",
)
@click.option(
    "--max-memory-per-child",
    type=_AT_LEAST_1,
    help="MB of memory above which a worker is replaced.  [default: none]",
)
@click.option(
    "--max-payload-bytes",
    type=_AT_LEAST_1,
    help="A larger payload is a dead letter before it is decoded.  [default: none]",
)
@click.option(
    "--graceful-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    help="Seconds that running messages have to finish after SIGTERM.",
)
@click.option(
    "--connect-timeout",
    type=click.FloatRange(min=0),
    default=10.0,
    help="Seconds to wait for Redis at start.",
)
@click.option("--burst", is_flag=True, help="Handle all there is, then exit (1 if some died).")
@click.option(
    "--heartbeat/--no-heartbeat",
    default=True,
    show_default="on",
    help="Write down what runs, for rsq running.",
)
@url_options(_found_url)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@version_option
def main(**options: Any) -> None:
    """Run TARGET (module:function) in worker processes, fed from a Redis stream.

    \b
      rsq-pool --workers 8 app:handler
      rsq-pool --stream orders --burst app:handler

    Signals: TERM or INT drain, a second one gives back and leaves; QUIT leaves at once; USR1 logs
    the status. Exit codes: 0 clean, 1 failure, 2 usage, 3 the app could not be loaded, 4 Redis
    unreachable, refusing us or too old at start.
    """
    forget()
    logs.set_up(options["log_level"], options["log_format"], "master")
    for sentence in unknown_variables(click.get_current_context().command.params):
        log.warning("%s", sentence)
    options["graceful_timeout_s"] = options.pop("graceful_timeout")
    options["time_limit_s"] = options.pop("time_limit")
    options["soft_time_limit_s"] = options.pop("soft_time_limit")
    options["max_memory_per_child_mb"] = options.pop("max_memory_per_child")
    options["connect_timeout_s"] = options.pop("connect_timeout")
    try:
        code = Pool(PoolConfig(**options)).run()
    except RedisStreamError as error:
        complain("rsq-pool", str(error))
        code = _exits.USAGE
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="rsq-pool")
