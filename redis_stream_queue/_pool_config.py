"""PoolConfig: what a pool can be told. Each option is one field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ._loading import TARGET, split_target
from ._options import STREAM_PREFIX, URL, Option, options_of, setting
from ._validate import Choice, Form, Maybe, Number, Switch, Text, Texts, Whole, check
from .exceptions import ConfigError

MAX_WORKERS = 512  # of a crew
PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
HTTP_ADDRESS = rf"(\[[0-9a-fA-F:.]+\]|[\w.-]+):{PORT}"
RETRY_DELAY_MS = 1000
RETRY_MAX_DELAY_MS = 60_000


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
            rule=Maybe(Whole(1, MAX_WORKERS)),
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
            check(f"the number of workers of {name}", workers, Maybe(Whole(1, MAX_WORKERS)))
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
