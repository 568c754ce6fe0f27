"""What the subcommands of rsq share: options, a connection with its loop, words for errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn, TypeVar

import click
from redis.exceptions import TimeoutError as RedisTimeoutError

from .. import _exits
from .._exits import Failure
from .._names import default_dlq
from .._options import STREAM_PREFIX, URL, URL_FILE
from .._plain import is_url
from ..client import StreamClient
from ..connection.exchange import OUTAGES
from ..connection.refusals import explained
from ..exceptions import ConfigError, RedisStreamError
from .config_file import config_option
from .options import click_option
from .output import complain
from .url import hide_password, url_options

ANSWER_S = 5.0  # how long Redis may be silent
FAILOVER_S = 10.0  # how long Sentinels or a cluster may take to name a master that works
INTERRUPTED = 130  # as a shell reports SIGINT

T = TypeVar("T")


def name(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A name that a key or a group can have."""
    if value is not None and (not value or not value.isprintable()):
        raise click.BadParameter(f"expected a name, got {value!r}.")
    if value is not None and is_url(value):
        raise click.BadParameter(f"expected a name, got {value!r}. A URL is for --url.")
    return value


stream_argument = click.argument("stream", callback=name)
group_option = click.option(
    "--group", callback=name, help="Only this consumer group.  [default: all]"
)
dlq_option = click.option(
    "--dlq-stream", callback=name, help="Dead letters.  [default: <stream>_dlq]"
)
prefix_option = click_option(STREAM_PREFIX)


def url_option(command: Any) -> Any:
    """``--url``, ``--url-file`` and the file that may hold both, or the prefix."""
    command = url_options(lambda url: hide_password(url, "redis_stream_queue.cli"))(command)
    return config_option([URL, URL_FILE, STREAM_PREFIX], anywhere=True)(command)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Print each error that a user can mend as one sentence, and end with its exit code."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has ended: click ends us silently
        raise
    except Failure as failure:
        _end(str(failure), failure.code)
    except ConfigError as error:
        _end(str(error), _exits.USAGE)
    except (RedisStreamError, *OUTAGES) as error:  # for example embedded:// could not be started
        _end(str(error), _exits.REDIS)


def _end(text: str, code: int) -> NoReturn:
    """Print what is wrong and end with this exit code."""
    complain("rsq", text)
    raise click.exceptions.Exit(code)


class Redis:
    """A client with an event loop of its own, for commands that are plain functions."""

    def __init__(self, url: str, prefix: str) -> None:
        watched = url.partition("://")[0].endswith(("+sentinel", "+cluster"))
        self.client = StreamClient.from_url(
            url,
            prefix=prefix,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=FAILOVER_S if watched else ANSWER_S,
        )
        self._runner = asyncio.Runner()

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work in the loop and return its result; there is no limit while Redis answers.

        Raises what the work raises.
        """

        async def run() -> T:
            return await work()

        try:
            return self._runner.run(run())
        except RedisTimeoutError:
            raise TimeoutError(f"no answer within {ANSWER_S:g} s") from None

    def dlq_of(self, stream: str, named: str | None = None) -> str:
        """The dead-letter stream of a stream. named: what the command line says, None = nothing."""
        client = self.client
        return named or default_dlq(stream, client.prefix, cluster=client.endpoint.cluster)

    def explained(self, error: Exception, key: str = "", after: str = "") -> Failure:
        """This error of Redis as a sentence for a user, with an exit code.

        key: the key that the command was about. after: added at the end of the sentence.
        """
        failure = self._runner.run(explained(self.client.endpoint, error, key=key))
        return Failure(failure.code, f"{failure} {after}".rstrip())

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*OUTAGES):
            self._runner.run(self.client.close())
        self._runner.close()


def on_redis(command: Callable[..., None]) -> Any:
    """Add ``--prefix``, ``--url`` and ``--url-file`` to a command, which gets ``redis`` for them.

    Its errors become a sentence and an exit code.
    """

    @prefix_option
    @url_option
    @functools.wraps(command)
    def run(prefix: str, url: str, **given: Any) -> None:
        with complaints(), Redis(url, prefix) as redis:
            command(redis, **given)

    return run


def ask(redis: Redis, stream: str, question: Callable[[], Awaitable[T]]) -> T:
    """The result of a question about a stream. Raises Failure if Redis does not answer it."""
    try:
        return redis.run(question)
    except OUTAGES as error:
        raise redis.explained(error, redis.client.key(stream)) from None


def counted(count: int, what: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{count} {what}" + ("" if count == 1 else "s")
