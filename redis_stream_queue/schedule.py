"""Messages for later, and periodic ones."""

from .later.extras import PushedId
from .later.lateness import LatenessMetrics
from .later.mover import Mover
from .later.periodic import Cron, Every
from .later.scheduled import ScheduledMessage
from .later.state import GroupState, MessageState

__all__ = [
    "Cron",
    "Every",
    "GroupState",
    "LatenessMetrics",
    "MessageState",
    "Mover",
    "PushedId",
    "ScheduledMessage",
]
