"""Messages for later: what moves them into their streams."""

from .later.extras import PushedId
from .later.lateness import LatenessMetrics
from .later.mover import Mover
from .later.scheduled import ScheduledMessage
from .later.state import GroupState, MessageState

__all__ = ["GroupState", "LatenessMetrics", "MessageState", "Mover", "PushedId", "ScheduledMessage"]
