"""PoolConfig: what the command line says; Settings: that and what the handler declares."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from .._loading import TARGET, split_target
from .._names import default_dlq
from .._options import STREAM_PREFIX, URL, Option, options_of, setting
from .._validate import Choice, Form, Maybe, Number, Switch, Text, Texts, Whole, check
from ..config import ConsumerConfig
from ..delivery.fate import Policy
from ..exceptions import ConfigError
from ._linux import cpu_limit
from .protocol import Loaded
from .scoreboard import MAX_SLOTS

COMMAND_TIMEOUT_S = 1.2  # where the URL sets no socket_timeout: a dead connection is left behind
HTTP_ADDRESS = r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}"
RETRY_DELAY_MS = 1000
RETRY_MAX_DELAY_MS = 60_000


def default_workers() -> int:
    """One worker per core that this process may use, a CPU limit of its container included."""
    cores = len(os.sched_getaffinity(0)) or 1
    limit = cpu_limit()
    return cores if limit is None else max(min(cores, math.ceil(limit)), 1)


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Settings of a pool; None = as the handler declares it, or the default.

    target: ``module:function``, or several of them: each is a crew of its own. How many workers run
        it may follow, as in ``app:orders=6``.
    workers: processes for each target that does not say how many.
    url: where Redis is.
    stream, group, dlq_stream, prefix: names in Redis, as for ``rsq-pool``.
    serializer: ``json``, ``msgpack``, ``pickle`` or ``module:object``.
    batch_size: None = adaptive.
    max_deliveries, min_idle_claim_ms: as in ConsumerConfig.
    retry_delay_ms, retry_max_delay_ms: as in ConsumerConfig, but by default 1,000 up to 60,000.
    time_limit_s: the worker is killed and its message counts a delivery; soft_time_limit_s:
        SoftTimeLimitExceeded is raised in the handler. Seconds for one message, or for one call of
        a batch handler.
    max_messages_per_child, max_memory_per_child_mb: the worker is replaced between two batches.
    max_payload_bytes: a larger payload is a dead letter before it is decoded.
    graceful_timeout_s, connect_timeout_s: seconds that running messages have to finish after
        SIGTERM, and to wait for Redis at start.
    burst: handle all there is, then end.
    preload: import the app before forking, to share memory. reload: replace the workers when a
        source file changes.
    http: ``host:port`` that probes and metrics are served on; None = none are.
    http_token_file: file with the token that page and status need beyond loopback.
    heartbeat: write down what runs, for ``rsq running``.
    log_level, log_format: ``debug`` to ``error``; ``text`` or ``json``.

    Raises ConfigError naming the option.
    """

    target: str | Sequence[str]
    workers: int | None = setting(
        Option(
            rule=Maybe(Whole(1, MAX_SLOTS)),
            shown="one per core",
            help="Worker processes, for each target that does not say how many.",
        )
    )
    stream: str | None = setting(
        Option(rule=Maybe(Text()), shown="as the handler declares", help="Stream to read.")
    )
    group: str | None = setting(
        Option(rule=Maybe(Text()), shown="`<stream>_workers`", help="Consumer group.")
    )
    dlq_stream: str | None = setting(
        Option(rule=Maybe(Text()), shown="`<stream>_dlq`", help="Stream for dead letters.")
    )
    prefix: str = setting(STREAM_PREFIX)
    serializer: str | None = setting(
        Option(
            rule=Maybe(
                Form(
                    f"json|msgpack|pickle|{TARGET.pattern}",
                    "json, msgpack, pickle or module:object",
                )
            ),
            shown="`json`",
            help="`json`, `msgpack`, `pickle` or `module:object`.",
            more="The one that the producer uses.",
        )
    )
    batch_size: int | None = setting(
        Option(
            rule=Maybe(Whole(1)),
            none="auto",
            help="Messages per read: a number, or 'auto' to adapt to how long they take.",
        )
    )
    max_deliveries: int | None = setting(
        Option(rule=Maybe(Whole(1)), shown="`3`", help="Then a message is dead.")
    )
    min_idle_claim_ms: int | None = setting(
        Option(
            rule=Maybe(Whole(1)),
            shown="`10000`",
            help="Silence after which another host's message counts as abandoned.",
        )
    )
    retry_delay_ms: int | None = setting(
        Option(rule=Maybe(Whole(0)), shown=f"`{RETRY_DELAY_MS}`", help="Before the first retry.")
    )
    retry_max_delay_ms: int | None = setting(
        Option(
            rule=Maybe(Whole(0)),
            shown=f"`{RETRY_MAX_DELAY_MS}`",
            help="The delay doubles up to this.",
        )
    )
    time_limit_s: float | None = setting(
        Option(
            rule=Maybe(Number(0, above=True)),
            shown="none",
            help="Seconds a message may run; then its worker is killed.",
            more="The message counts a delivery.",
        )
    )
    soft_time_limit_s: float | None = setting(
        Option(
            rule=Maybe(Number(0, above=True)),
            shown="none",
            help="Seconds after which `SoftTimeLimitExceeded` is raised in the handler.",
            more="Also while its payload is decoded.",
        )
    )
    max_messages_per_child: int | None = setting(
        Option(
            rule=Maybe(Whole(1)),
            shown="none",
            help="Messages after which a worker is replaced.",
        )
    )
    max_memory_per_child_mb: int | None = setting(
        Option(
            rule=Maybe(Whole(1)),
            shown="none",
            help="MB of memory above which a worker is replaced.",
        )
    )
    max_payload_bytes: int | None = setting(
        Option(
            rule=Maybe(Whole(1)),
            shown="none",
            help="A larger payload is a dead letter before it is decoded.",
            more="Its reason is `too_large`.",
        )
    )
    graceful_timeout_s: float = setting(
        Option(
            rule=Number(0),
            default=25.0,
            help="Seconds that running messages have to finish after SIGTERM.",
            more="Platforms kill after 30.",
        )
    )
    connect_timeout_s: float = setting(
        Option(
            rule=Number(0),
            default=10.0,
            help="Seconds to wait for Redis at start.",
            more="Later the pool waits for ever.",
        )
    )
    burst: bool = setting(
        Option(
            rule=Switch(),
            default=False,
            help="Handle all there is, then exit (1 if some died).",
            more="With a progress bar on a terminal.",
        )
    )
    preload: bool = setting(
        Option(
            rule=Switch(),
            default=False,
            help="Import the app once, before forking: its workers share the memory.",
            more="The import must start no thread and open no connection.",
        )
    )
    reload: bool = setting(
        Option(
            rule=Switch(),
            default=False,
            help="Development: load fresh code when a Python file changes (extra `reload`).",
            more="Below the directory that it was started in.",
        )
    )
    heartbeat: bool = setting(
        Option(
            rule=Switch(),
            default=True,
            shown="on",
            help="Write down what runs, for `rsq running`.",
            more="`--no-heartbeat` writes nothing.",
        )
    )
    http: str | None = setting(
        Option(
            rule=Maybe(Form(HTTP_ADDRESS, "HOST:PORT, as in 127.0.0.1:9191")),
            shown="none",
            help="Serve probes, metrics and a live page on HOST:PORT (extra `http`).",
            more="`/livez`, `/readyz`, `/metrics`, `/status`, and a page: `/`.",
        )
    )
    http_token_file: str | None = setting(
        Option(
            rule=Maybe(Text()),
            shown="none",
            help="File with the token for `/status` and `/`.",
            more="Beyond loopback neither is served without one.",
        )
    )
    url: str = setting(URL, repr=False)  # it may hold a password
    log_level: str = setting(
        Option(
            rule=Choice(("debug", "info", "warning", "error"), any_case=True),
            default="info",
            more="Or `debug`, `warning`, `error`.",
        )
    )
    log_format: str = setting(
        Option(
            rule=Choice(("text", "json")),
            default="text",
            more="Or `json`: one object a line.",
        )
    )

    def __post_init__(self) -> None:
        self._check_targets()
        for option in OPTIONS:
            check(option.name, getattr(self, option.name), option.rule)
        soft, hard = self.soft_time_limit_s, self.time_limit_s
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigError(
                f"soft_time_limit_s ({soft:g}) must be below time_limit_s ({hard:g}), or the "
                "handler would be killed before it is asked."
            )

    @property
    def targets(self) -> list[tuple[str, int | None]]:
        """Each target, and how many workers it says it wants."""
        named = [self.target] if isinstance(self.target, str) else self.target
        return [split_target(text) for text in named]

    def _check_targets(self) -> None:
        check("target", self.target, Texts())
        names = [name for name, _ in self.targets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"the target {twice[0]} is there twice: say once how many run it.")
        for name, workers in self.targets:
            check(f"the number of workers of {name}", workers, Maybe(Whole(1, MAX_SLOTS)))
        if len(names) > 1 and self.stream is not None:
            raise ConfigError(
                f"--stream is for one target, but there are {len(names)}: name their streams with "
                '@stream_handler("NAME").'
            )

    def crews(self) -> list[PoolConfig]:
        """The same settings for each target alone; workers None = nobody says how many."""
        return [
            replace(self, target=name, workers=workers or self.workers)
            for name, workers in self.targets
        ]


OPTIONS = tuple(options_of(PoolConfig))


class Settings(NamedTuple):
    """Everything a pool runs by, once the handler is known.

    batch_size: None = adaptive. policy: for recovery: no fewer deliveries than any task may have.
    limited: is there a time limit, of the pool or of a task?
    """

    stream: str
    consumer: ConsumerConfig
    batch_size: int | None
    dlq_handler: bool
    one_at_a_time: bool
    policy: Policy
    limited: bool


def resolve(config: PoolConfig, loaded: Loaded, *, cluster: bool) -> Settings:
    """The command line over the decorator over the defaults; what is declared as None is None.

    Raises ConfigError, for example when nobody names a stream.
    """
    stream = config.stream or loaded.stream
    if not stream:
        raise ConfigError(
            f"no stream: pass --stream NAME, or decorate {config.target} with "
            '@stream_handler("NAME").'
        )
    given: dict[str, Any] = {
        "retry_delay_ms": RETRY_DELAY_MS,
        "group": f"{stream}_workers",
        "dlq_stream": default_dlq(stream, config.prefix, cluster=cluster),
        **loaded.settings,
    }
    for name in (
        "group",
        "dlq_stream",
        "batch_size",
        "max_deliveries",
        "min_idle_claim_ms",
        "retry_delay_ms",
        "retry_max_delay_ms",
        "max_payload_bytes",
    ):
        value = getattr(config, name)
        if value is not None:
            given[name] = value
    given.pop("worker_name", None)  # every worker life has a name of its own
    if config.retry_max_delay_ms is None:
        longest_ms = loaded.settings.get("retry_max_delay_ms", RETRY_MAX_DELAY_MS)
        first_ms = ConsumerConfig(**{**given, "retry_max_delay_ms": None}).first_retry_ms
        given["retry_max_delay_ms"] = None if longest_ms is None else max(longest_ms, first_ms)
    if given["dlq_stream"] == stream:
        raise ConfigError(f"the dead-letter stream must not be the stream itself ({stream!r}).")
    consumer = ConsumerConfig(**given)
    most = max(consumer.max_deliveries, loaded.most_deliveries)
    return Settings(
        stream=stream,
        consumer=consumer,
        batch_size=given.get("batch_size"),
        dlq_handler=loaded.dlq_handler,
        one_at_a_time=loaded.one_at_a_time,
        policy=consumer.policy._replace(max_deliveries=most),
        limited=config.time_limit_s is not None or loaded.limited,
    )
