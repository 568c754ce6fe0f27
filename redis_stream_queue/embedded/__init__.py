"""``embedded://[DIR]``: a private real server for first runs, development and tests."""

from .server import EmbeddedServer, start_or_join

__all__ = ["EmbeddedServer", "start_or_join"]
