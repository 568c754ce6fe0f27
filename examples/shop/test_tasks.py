"""Without a server: what is pushed runs where it is pushed, and what is for later is recorded."""

from __future__ import annotations

import os
from email import message_from_bytes
from functools import partial
from pathlib import Path

import httpx
import pytest
import tasks
import web
from fastapi.testclient import TestClient


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tasks, "DATA", tmp_path)
    return tmp_path


def subjects(data: Path) -> list[str]:
    mails = [message_from_bytes(mail.read_bytes()) for mail in data.glob("outbox/*.eml")]
    return [mail["Subject"] for mail in mails]


def test_an_order_is_confirmed_and_billed_and_its_reminder_can_be_taken_back(data: Path) -> None:
    with tasks.queue.testing() as pushed, TestClient(web.app) as client:
        order = {"mail": "ada@example.com", "items": ["tea", "tea", "cup"]}
        answer = client.post("/orders/7", json=order).json()
        paid = client.delete(f"/reminders/{answer['reminder']}").json()

    assert Path(answer["invoice"]).read_text() == "Order 7: 21.00 EUR\n"
    assert subjects(data) == ["Order 7"]
    [reminder] = [call for call in pushed if not call.ran]
    assert (reminder.task, reminder.args) == ("remind", [7, "ada@example.com"])
    assert reminder.options["delay_ms"] == tasks.HOUR_MS
    assert paid == {"taken back": True}
    assert reminder.cancelled


def test_a_reminder_is_a_mail(data: Path) -> None:
    with tasks.queue.testing():
        tasks.remind.push_sync(7, "ada@example.com")

    assert subjects(data) == ["Order 7 is not paid yet"]


def test_a_photo_becomes_smaller(data: Path) -> None:
    red, blue = b"\xff\0\0", b"\0\0\xff"
    with tasks.queue.testing(), TestClient(web.app) as client:
        client.put("/photos/1", content=b"P6\n64 2\n255\n" + (red * 32 + blue * 32) * 2)

    made = (data / "thumbnails/1.ppm").read_bytes()
    assert made == b"P6 32 1 255\n" + red * 16 + blue * 16


def test_rates_are_fetched(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = httpx.MockTransport(lambda request: httpx.Response(200, json={"EUR": 1}))
    monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=bank))
    with tasks.queue.testing(), TestClient(web.app) as client:
        client.post("/rates")

    assert (data / "rates.json").read_text() == '{"EUR":1}'


def test_old_mails_go(data: Path) -> None:
    new, old = (Path(tasks.save(f"outbox/{name}.eml", b"")) for name in ("new", "old"))
    os.utime(old, (0, 0))

    tasks.clean_up()  # a plain call stays a plain call

    assert (new.exists(), old.exists()) == (True, False)
