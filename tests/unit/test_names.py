"""Names of streams, consumers and parking places."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from redis_stream_queue import ClusterSlotError
from redis_stream_queue._names import (
    MOST_DUE_MS,
    check_same_slot,
    default_dlq,
    parking_due_ms,
    parking_name,
    prefixed,
    worker_name,
)

NAME = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="_-.:"), min_size=1
)
HOST = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="-."), min_size=1
)
KEY = st.text(alphabet="ab{}_:", min_size=1, max_size=12)


class TestWorkerName:
    @given(group=NAME, hostname=HOST)
    def test_is_short_and_ends_with_four_random_characters(self, group: str, hostname: str) -> None:
        name = worker_name(group, hostname)
        assert len(name) <= 64
        assert re.fullmatch(r"[a-z0-9]{4}", name[-4:])
        assert name[-5] == "_"

    @given(group=NAME, hostname=HOST)
    def test_keeps_the_host_and_cuts_the_group_first(self, group: str, hostname: str) -> None:
        name = worker_name(group, hostname)
        head = name[:-5]
        if len(hostname) <= 40:
            assert head.endswith(f"_{hostname}")
            kept = head[: -len(hostname) - 1]
            assert group.startswith(kept)
            assert kept == group or len(name) == 64

    @given(tails=st.lists(NAME, min_size=2, max_size=2, unique=True))
    def test_long_hostnames_that_differ_only_at_the_end_stay_apart(self, tails: list[str]) -> None:
        """A cut hostname gets a short hash of the whole."""
        one, other = (worker_name("g", f"{'h' * 41}{tail}")[:-5] for tail in tails)
        assert one != other

    def test_is_drawn_anew_each_time(self) -> None:
        assert len({worker_name("g", "h") for _ in range(50)}) > 45

    def test_is_no_parking_name(self) -> None:
        assert parking_due_ms("g", worker_name("g", "h")) is None


class TestParking:
    @given(group=NAME, delay_ms=st.integers(0, MOST_DUE_MS))
    def test_name_and_idle_time_tell_the_delay_exactly(self, group: str, delay_ms: int) -> None:
        """D is the smallest power of two >= the delay, and D - idle is the delay."""
        name, idle_ms = parking_name(group, delay_ms)
        due_ms = parking_due_ms(group, name)
        assert due_ms is not None
        assert due_ms - idle_ms == delay_ms
        assert idle_ms >= 0
        assert due_ms & (due_ms - 1) == 0
        assert due_ms == 1 or due_ms < 2 * delay_ms
        assert name == f"{group}:retry:{due_ms}"

    def test_nothing_waits_longer_than_the_longest(self) -> None:
        assert parking_name("g", 10**30) == (f"g:retry:{MOST_DUE_MS}", 0)

    @given(delay_ms=st.integers(-(10**9), 0))
    def test_no_delay_is_due_at_once(self, delay_ms: int) -> None:
        assert parking_name("g", delay_ms) == ("g:retry:1", 1)

    def test_a_suspect_waits_under_a_name_that_says_so(self) -> None:
        assert parking_name("g", 0, suspect=True) == ("g:retry:2", 2)

    @pytest.mark.parametrize(
        "consumer",
        ["", "g", "g:retry:", "g:retry:x", "g:retry:12x", "h:retry:8", "xg:retry:8",
         "g:retry:8:retry:9", "g:retry:-8"],
    )  # fmt: skip
    def test_other_names_are_no_parking_names(self, consumer: str) -> None:
        assert parking_due_ms("g", consumer) is None

    @given(group=NAME, other=NAME)
    def test_groups_do_not_share_parking_names(self, group: str, other: str) -> None:
        name, _ = parking_name(group, 500)
        if other != group:
            assert parking_due_ms(other, name) is None


class TestKeys:
    def test_prefix(self) -> None:
        assert prefixed("", "orders") == "orders"
        assert prefixed("shop", "orders") == "shop_orders"
        assert prefixed("shop", "{orders}_main") == "shop_{orders}_main"

    @given(stream=KEY, prefix=st.sampled_from(["", "p", "{p}"]))
    def test_default_dead_letter_stream_shares_the_slot_on_a_cluster(
        self, stream: str, prefix: str
    ) -> None:
        """The pool's default works for every stream name that can be given a partner."""
        key = prefixed(prefix, stream)
        tagged = re.match(r"[^{]*\{[^}]+\}", key)
        if not tagged and ("}" in key or "{" in prefix):
            return  # a stray brace: no name with literal braces hashes like it
        dlq_key = prefixed(prefix, default_dlq(stream, prefix, cluster=True))
        assert key_slot(key.encode()) == key_slot(dlq_key.encode())

    def test_default_dead_letter_stream_elsewhere(self) -> None:
        assert default_dlq("orders", "shop") == "orders_dlq"

    @given(
        stream=st.text(alphabet="ab_:", min_size=1, max_size=12),
        dlq=st.text(alphabet="cd_:", min_size=1, max_size=12),
    )
    def test_slot_error_names_both_keys_and_a_name_that_works(self, stream: str, dlq: str) -> None:
        if key_slot(stream.encode()) == key_slot(dlq.encode()):
            check_same_slot(stream, dlq)
            return
        with pytest.raises(ClusterSlotError) as caught:
            check_same_slot(stream, dlq)
        text = str(caught.value)
        assert repr(stream) in text
        assert repr(dlq) in text
        proposed = re.search(r"Name the dead-letter stream '([^']+)'", text)
        assert proposed
        assert key_slot(proposed[1].encode()) == key_slot(stream.encode())

    @given(stream=KEY)
    def test_slot_error_proposes_a_name_that_works_for_braces_too(self, stream: str) -> None:
        try:
            check_same_slot(stream, "elsewhere")
        except ClusterSlotError as error:
            proposed = re.search(r"Name the dead-letter stream '([^']+)'", str(error))
            if proposed:
                assert key_slot(proposed[1].encode()) == key_slot(stream.encode())


@pytest.mark.parametrize("host", ["w\udcfcrker", "\udcff" * 60, "wörker"])
def test_a_worker_name_can_be_sent_whatever_the_host_is_called(host: str) -> None:
    """A host name that is not UTF-8 comes from the system with lone surrogates."""
    name = worker_name("crew", host)
    assert len(name) <= 64
    assert name.encode()
