"""What is being handled right now, for the log: set as a call begins, read by its records."""

from __future__ import annotations

from contextvars import ContextVar

# (stream, entry id, task or ""); of a batch handler "<first id>..<last id>"
handled: ContextVar[tuple[str, str, str] | None] = ContextVar("rsq_handled", default=None)
