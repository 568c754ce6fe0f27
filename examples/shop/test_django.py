"""The pages of django_web.py, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
import django_web  # noqa: F401  (it configures Django)
import pytest
import tasks
from django.test import Client


def test_an_order_in_django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "DATA", tmp_path)
    django.setup()
    order = {"mail": "ada@example.com", "items": ["tea", "cup"]}
    with tasks.queue.testing() as pushed:
        client: Any = Client()
        answer = client.post("/orders/7", order, "application/json").json()
        paid = client.delete(f"/reminders/{answer['reminder']}").json()
        refused = client.post("/orders/8", {**order, "items": ["car"]}, "application/json")

    assert Path(answer["invoice"]).read_text() == "Order 7: 16.50 EUR\n"
    assert paid == {"taken back": True}
    assert refused.json() == {"not sold here": ["car"]}
    assert [call.task for call in pushed] == ["send_mail", "remind", "total", "invoice"]
