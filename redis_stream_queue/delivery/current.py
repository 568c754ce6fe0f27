"""The message that is being handled: set in the context of its call, for the log and for tasks."""

from __future__ import annotations

from contextvars import ContextVar

from ..message import StreamMessage
from .rules import AS_CONFIGURED, Rules

# A message, what holds for it, and when it was started, in ms of mono_ms(). Where nothing does, its
# id is enough; of a batch handler "<first id>..<last id>".
Handled = tuple[StreamMessage, Rules, int] | str
handled: ContextVar[Handled | None] = ContextVar("rsq_handled", default=None)


def rules() -> Rules:
    """What holds for what is being handled."""
    found = handled.get()
    return AS_CONFIGURED if found is None or isinstance(found, str) else found[1]


def noted() -> tuple[str, str] | None:
    """Id of the message that is handled and name of its task ("" = none); None = no message."""
    found = handled.get()
    if found is None:
        return None
    if isinstance(found, str):
        return found, ""
    message, rules, _ = found
    return message.id, rules.name
