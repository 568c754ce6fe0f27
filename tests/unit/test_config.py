"""ConsumerConfig: defaults are the contract, bad values name their field."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, get_type_hints

import pytest

from redis_stream_queue import ConfigError, ConsumerConfig
from redis_stream_queue.config import Settings, SettingsOfTasks

POSITIVE = ["batch_size", "max_deliveries", "max_stream_size"]
NOT_NEGATIVE = ["block_ms", "min_idle_claim_ms"]
NONE_OR_POSITIVE = ["max_claim_passes", "dlq_max_len"]
NONE_OR_NOT_NEGATIVE = ["retry_delay_ms", "retry_max_delay_ms"]
TEXTS = ["worker_name", "dlq_stream", "dlq_group", "payload_field"]
NOT_NUMBERS = [None, "1", 1.5, True, float("nan"), [1]]


def test_defaults() -> None:
    """As PRODUCT.md lists them."""
    assert asdict(ConsumerConfig(group="g")) == {
        "group": "g",
        "worker_name": None,
        "dlq_stream": None,
        "dlq_group": None,
        "dlq_max_len": None,
        "batch_size": 100,
        "block_ms": 5000,
        "min_idle_claim_ms": 10_000,
        "max_deliveries": 3,
        "max_stream_size": 100_000,
        "max_claim_passes": None,
        "retry_delay_ms": None,
        "retry_max_delay_ms": None,
        "payload_field": "data",
        "max_payload_bytes": None,
    }


def test_decorators_know_each_field_by_its_type() -> None:
    """So that type checkers and editors do, too."""
    assert get_type_hints(Settings) == get_type_hints(ConsumerConfig)
    assert {*get_type_hints(Settings)} - {"group", "payload_field"} == {
        *get_type_hints(SettingsOfTasks)
    }


def test_positional_order_is_that_of_0_1() -> None:
    """New fields come after the old ones."""
    old = ConsumerConfig("g", "w", "d", "dg", 1, 2, 3, 4, 5, 6)
    assert (old.worker_name, old.dlq_stream, old.dlq_group) == ("w", "d", "dg")
    assert (old.batch_size, old.block_ms, old.min_idle_claim_ms) == (1, 2, 3)
    assert (old.max_deliveries, old.max_stream_size, old.max_claim_passes) == (4, 5, 6)


@pytest.mark.parametrize("field", [*POSITIVE, *NONE_OR_POSITIVE])
@pytest.mark.parametrize("value", [0, -1])
def test_zero_and_less_are_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} .*{value}"):
        ConsumerConfig(**{"group": "g", field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [*NOT_NEGATIVE, *NONE_OR_NOT_NEGATIVE])
def test_zero_is_fine_where_it_has_a_meaning(field: str) -> None:
    settings = {"group": "g", "retry_delay_ms": 0, field: 0}
    assert getattr(ConsumerConfig(**settings), field) == 0  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"^{field} "):
        ConsumerConfig(**{"group": "g", field: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field", [*POSITIVE, *NOT_NEGATIVE, *NONE_OR_POSITIVE, *NONE_OR_NOT_NEGATIVE]
)
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_what_is_no_whole_number_is_refused(field: str, value: Any) -> None:
    if value is None and field in (*NONE_OR_POSITIVE, *NONE_OR_NOT_NEGATIVE):
        assert getattr(ConsumerConfig(**{"group": "g", field: None}), field) is None
        return
    with pytest.raises(ConfigError, match=f"^{field} "):
        ConsumerConfig(**{"group": "g", field: value})


@pytest.mark.parametrize("field", ["group", *TEXTS])
@pytest.mark.parametrize("value", ["", 3, b"bytes", ["g"]], ids=repr)
def test_what_is_no_text_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field} "):
        ConsumerConfig(**{"group": "g", field: value})


def test_group_is_required() -> None:
    with pytest.raises(ConfigError, match=r"^group "):
        ConsumerConfig(group=None)  # type: ignore[arg-type]


def test_ceiling_below_the_first_delay_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^retry_max_delay_ms .*500"):
        ConsumerConfig(group="g", retry_delay_ms=500, retry_max_delay_ms=499)
    ConsumerConfig(group="g", retry_delay_ms=500, retry_max_delay_ms=500)


def test_ceiling_below_the_default_first_delay_is_refused_too() -> None:
    """Without retry_delay_ms the first delay is min_idle_claim_ms."""
    with pytest.raises(ConfigError, match=r"^retry_max_delay_ms "):
        ConsumerConfig(group="g", min_idle_claim_ms=10_000, retry_max_delay_ms=10)


def test_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


def test_drawn_worker_name() -> None:
    """Unique per call; a given one is used as it is."""
    config = ConsumerConfig(group="g")
    assert config.resolved_worker_name() != config.resolved_worker_name()
    assert config.worker_name is None
    assert ConsumerConfig(group="g", worker_name="me").resolved_worker_name() == "me"


def test_max_deliveries_has_an_upper_bound() -> None:
    """Greater counts say that a burial has begun."""
    ConsumerConfig(group="g", max_deliveries=10**9 - 1)
    with pytest.raises(ConfigError, match=r"^max_deliveries .* from 1 to 999,999,999"):
        ConsumerConfig(group="g", max_deliveries=10**9)
