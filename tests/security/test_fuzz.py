"""A short part of ``scripts/fuzz``, with the same seed each time; that looks with others."""

from __future__ import annotations

import pytest

from tests.fuzz.run import fuzz

SEED = 20


@pytest.mark.long
def test_nothing_that_anybody_puts_into_redis_disturbs_us() -> None:
    line, faults = fuzz(SEED, payloads=4000, entries=800)
    assert not faults, f"scripts/fuzz --seed {SEED} --payloads 4000 --entries 800: {line} {faults}"
