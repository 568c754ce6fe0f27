"""What public classes are made with: wrong values are refused at once, later assignments too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redis_stream_queue import (
    ConfigError,
    ConsumerConfig,
    ConsumerGroup,
    DeadLetterQueue,
    JsonSerializer,
    Queue,
    RetryHandler,
    SignedSerializer,
    StreamClient,
    StreamConsumer,
    StreamProducer,
)

CLIENT = StreamClient()  # connects to nothing
URL: Any = "redis://localhost"
WRONG: Any = 5


def consumer(**given: Any) -> StreamConsumer:
    return StreamConsumer(CLIENT, "s", ConsumerConfig(group="g"), lambda _: [], **given)


def changed(**fields: Any) -> ConsumerConfig:
    config = ConsumerConfig(group="g")
    vars(config).update(fields)
    return config


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConsumerGroup(URL, "s", "g"), "client must be a StreamClient"),
        (lambda: ConsumerGroup(CLIENT, "", "g"), "stream must be"),
        (lambda: ConsumerGroup(CLIENT, "s", ""), "group must be"),
        (lambda: DeadLetterQueue(URL, "s_dlq"), "client must be a StreamClient"),
        (lambda: DeadLetterQueue(CLIENT, WRONG), "dlq_stream must be"),
        (lambda: RetryHandler(URL, "s", "g"), "client must be a StreamClient"),
        (lambda: StreamProducer(CLIENT, "s", group=WRONG), "group must be"),
        (lambda: consumer(dlq_handler=WRONG), "dlq_handler must be callable"),
        (lambda: consumer(error_hook=WRONG), "error_hook must be callable"),
        (
            lambda: StreamConsumer(CLIENT, "s", changed(batch_size="many"), lambda _: []),
            "batch_size must be",
        ),
        (lambda: SignedSerializer(WRONG, bytes(16)), "serializer must be"),
        (
            lambda: SignedSerializer(JsonSerializer(), bytes(16), context=WRONG),
            "context must be",
        ),
    ],
)
def test_a_wrong_value_is_refused_at_once(make: Callable[[], Any], said: str) -> None:
    """Not by the first message, nor by an AttributeError somewhere inside."""
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (StreamProducer(CLIENT, "s"), ["stream", "group", "max_len", "trim", "max_scheduled"]),
        (consumer(), ["client", "stream", "config", "group"]),
        (Queue("s"), ["stream", "group"]),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_settled_cannot_be_assigned(made: Any, names: list[str]) -> None:
    """It would do nothing, and the old value stays."""
    for name in names:
        before = getattr(made, name)
        with pytest.raises(AttributeError, match=f"{name} of a .* is settled when it is made"):
            setattr(made, name, "another")
        assert getattr(made, name) is before
