"""What several tests of rsq need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def lines_file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)))
    return path
