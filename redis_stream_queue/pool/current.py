"""What is being handled right now, for the log: set as a call begins, read by its records."""

from __future__ import annotations

from contextvars import ContextVar

# Entry id; of a batch handler "<first id>..<last id>".
handled: ContextVar[str | None] = ContextVar("rsq_handled", default=None)
# Name of what it asks for; set where that is another one than before.
task: ContextVar[str] = ContextVar("rsq_task", default="")
