"""A worker pool and an asyncio library on Redis Streams.

The pool runs from the command line (``rsq-pool``) and lives in ``redis_stream_queue.pool``.
"""

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
    Retry,
    SerializationError,
    SoftTimeLimitExceeded,
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
    "JsonSerializer",
    "MessageState",
    "Mover",
    "MsgpackSerializer",
    "NotDurable",
    "PendingEntry",
    "PickleSerializer",
    "ProducerMetrics",
    "PushedId",
    "RedisStreamError",
    "Reject",
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
    "UnsupportedServer",
    "per_message",
    "stream_handler",
]
