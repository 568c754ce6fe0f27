"""Starts the HTTP server of the master, where the extra for it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from ..._pool_config import PoolConfig
from ...exceptions import ConfigError

if TYPE_CHECKING:
    from .http.server import HttpServer
    from .http.snapshot import Snapshot

log = logger(__name__)


def http_server(
    config: PoolConfig, newest: Callable[[], Snapshot], is_ready: Callable[[], bool]
) -> HttpServer:
    """The HTTP server for the address ``config.http``; newest, is_ready: see HttpServer.

    Raises Failure if the extra ``http`` is not installed or the token cannot be read.
    """
    assert config.http is not None
    try:  # imported here and not at the start of the pool: workers start meanwhile
        from .http.access import read_token
        from .http.server import HttpServer
    except ImportError as error:
        raise Failure(
            _exits.USAGE,
            f"--http needs the extra http ({error}): pip install 'redis-stream-queue[http]'",
        ) from None
    try:
        token = read_token(config.http_token_file) if config.http_token_file else None
    except ConfigError as error:
        raise Failure(_exits.USAGE, str(error)) from None
    log.info("HTTP: probes, metrics and a page on http://%s/", config.http)
    return HttpServer(config.http, token, newest, is_ready)
