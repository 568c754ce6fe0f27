"""A short part of ``scripts/fuzz``, with another seed each time."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.run import fuzz


@pytest.mark.long
def test_nothing_that_anybody_puts_into_redis_disturbs_us() -> None:
    seed = random.randrange(1_000_000)
    line, faults = fuzz(seed, payloads=4000, entries=800)
    assert not faults, f"scripts/fuzz --seed {seed} --payloads 4000 --entries 800: {line} {faults}"
