"""A worker pool and an asyncio library on Redis Streams.

The pool runs from the command line (``rsq-pool``) and lives in ``redis_stream_queue.pool``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import StreamClient
    from .config import ConsumerConfig
    from .consumer import StreamConsumer
    from .dlq import DeadLetterQueue
    from .exceptions import (
        BacklogFull,
        Cancelled,
        ClusterSlotError,
        ConfigError,
        DLQError,
        NotDurable,
        RedisStreamError,
        Reject,
        ResultGone,
        Retry,
        SerializationError,
        SoftTimeLimitExceeded,
        TaskFailed,
        TaskUnknown,
        UnsupportedServer,
    )
    from .group import ConsumerGroup
    from .handlers import DLQHandler, per_message, stream_handler
    from .message import ConsumerInfo, PendingEntry, StreamMessage, StreamStats
    from .metrics import ConsumerMetrics, ProducerMetrics
    from .producer import StreamProducer
    from .retry import RetryHandler
    from .schedule import Cron, Every, GroupState, MessageState, Mover, PushedId, ScheduledMessage
    from .serializers import (
        JsonSerializer,
        MsgpackSerializer,
        PickleSerializer,
        Serializer,
        SignedSerializer,
    )
    from .tasks.current import current
    from .tasks.job import Job
    from .tasks.queue import Queue
    from .tasks.task import Task

__all__ = [
    "BacklogFull",
    "Cancelled",
    "ClusterSlotError",
    "ConfigError",
    "ConsumerConfig",
    "ConsumerGroup",
    "ConsumerInfo",
    "ConsumerMetrics",
    "Cron",
    "DLQError",
    "DLQHandler",
    "DeadLetterQueue",
    "Every",
    "GroupState",
    "Job",
    "JsonSerializer",
    "MessageState",
    "Mover",
    "MsgpackSerializer",
    "NotDurable",
    "PendingEntry",
    "PickleSerializer",
    "ProducerMetrics",
    "PushedId",
    "Queue",
    "RedisStreamError",
    "Reject",
    "ResultGone",
    "Retry",
    "RetryHandler",
    "ScheduledMessage",
    "SerializationError",
    "Serializer",
    "SignedSerializer",
    "SoftTimeLimitExceeded",
    "StreamClient",
    "StreamConsumer",
    "StreamMessage",
    "StreamProducer",
    "StreamStats",
    "Task",
    "TaskFailed",
    "TaskUnknown",
    "UnsupportedServer",
    "current",
    "per_message",
    "stream_handler",
]

# A module is imported when one of its names is first asked for: a command line that only says what
# it can do loads no Redis, and a program that only sends nothing of what receives.
_MODULES = {
    "client": "StreamClient",
    "config": "ConsumerConfig",
    "consumer": "StreamConsumer",
    "dlq": "DeadLetterQueue",
    "exceptions": "BacklogFull Cancelled ClusterSlotError ConfigError DLQError NotDurable "
    "RedisStreamError Reject ResultGone Retry SerializationError SoftTimeLimitExceeded TaskFailed "
    "TaskUnknown UnsupportedServer",
    "group": "ConsumerGroup",
    "handlers": "DLQHandler per_message stream_handler",
    "message": "ConsumerInfo PendingEntry StreamMessage StreamStats",
    "metrics": "ConsumerMetrics ProducerMetrics",
    "producer": "StreamProducer",
    "retry": "RetryHandler",
    "schedule": "Cron Every GroupState MessageState Mover PushedId ScheduledMessage",
    "serializers": "JsonSerializer MsgpackSerializer PickleSerializer Serializer SignedSerializer",
    "tasks.current": "current",
    "tasks.job": "Job",
    "tasks.queue": "Queue",
    "tasks.task": "Task",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:  # what completion and help() show: nothing that is not for users
    own = (name for name in globals() if name.startswith("__"))
    return sorted({*own, *__all__, *filter(str.isidentifier, _MODULES)})
