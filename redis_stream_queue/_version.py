"""The installed version of this package."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """As in the package's metadata; "unknown" where it runs without being installed."""
    try:
        return importlib.metadata.version("redis-stream-queue")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
