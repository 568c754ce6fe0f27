"""Starts the HTTP server of the master, where the extra for it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ... import _exits
from ..._exits import Failure
from ..._log import logger
from ..metrics import PoolMetrics
from .observation import Observation

if TYPE_CHECKING:
    from .http.server import HttpServer

log = logger(__name__)


async def serve(
    address: str,
    metrics: Callable[[], PoolMetrics],
    observation: Observation,
    is_ready: Callable[[], bool],
) -> HttpServer:
    """Probes and metrics on HOST:PORT. Raises Failure without the extra ``http``."""
    try:  # now: workers need none of it, and start meanwhile
        from .http.prometheus import Exposition
        from .http.server import HttpServer
    except ImportError as error:
        raise Failure(
            _exits.USAGE,
            f"--http needs the extra http ({error}): pip install 'redis-stream-queue[http]'",
        ) from None
    server = HttpServer(address, Exposition(metrics, observation), is_ready)
    await server.start()
    log.info("HTTP: probes and metrics on %s", address)
    return server
