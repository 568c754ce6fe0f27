"""The shop's work in the background: six tasks on one queue."""

from __future__ import annotations

import os
import re
import time
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path

import httpx

from redis_stream_queue import Queue, Reject, current

DATA = Path(os.environ.get("SHOP_DATA", "shop-data"))
RATES_URL = os.environ.get("RATES_URL", "https://example.com/rates.json")
HOUR_MS = 3_600_000
PRICES = {"tea": Decimal("4.50"), "cup": Decimal("12.00")}

queue = Queue("shop")


def save(name: str, content: bytes) -> str:
    """The same file again overwrites itself: a second run of a task does no harm."""
    path = DATA / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@queue.task(max_deliveries=5, retry_on=OSError, time_limit_s=30)
def send_mail(to: str, subject: str, body: str = "") -> None:
    """Puts it into a folder; a real shop calls smtplib here, whose errors are OSErrors, too."""
    mail = EmailMessage()
    mail["To"], mail["Subject"] = to, subject
    mail.set_content(body)
    save(f"outbox/{current().id}.eml", mail.as_bytes())


@queue.task(time_limit_s=30)
def thumbnail(photo: int, width: int = 64) -> None:
    """Of a PPM image, which the standard library can read; for others there is Pillow."""
    image = (DATA / f"photos/{photo}.ppm").read_bytes()
    header = re.match(rb"P6\s+([1-9]\d*)\s+([1-9]\d*)\s+255\s", image)
    if header is None:
        raise Reject(f"photo {photo} is no PPM image")  # it will be none the next time, either
    wide, high = int(header[1]), int(header[2])
    height = max(high * width // wide, 1)
    rows = (header.end() + 3 * wide * (y * high // height) for y in range(height))
    starts = (row + 3 * (x * wide // width) for row in rows for x in range(width))
    pixels = b"".join(image[start : start + 3] for start in starts)
    save(f"thumbnails/{photo}.ppm", b"P6 %d %d 255\n" % (width, height) + pixels)


@queue.task(concurrency=50, max_deliveries=5, retry_on=httpx.HTTPError, time_limit_s=60)
async def fetch_rates(url: str) -> None:
    """Side by side with up to 49 others in the same process."""
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(url)
    save("rates.json", answer.raise_for_status().content)


@queue.cron("0 3 * * *", tz="Europe/Berlin")
def clean_up() -> None:
    """Mails older than 30 days."""
    for mail in DATA.glob("outbox/*.eml"):
        if mail.stat().st_mtime < time.time() - 30 * 86_400:
            mail.unlink(missing_ok=True)


@queue.task
def remind(order: int, to: str) -> None:
    """Pushed with a delay of an hour; a task may push others."""
    send_mail.push_sync(to, f"Order {order} is not paid yet")


@queue.task(result_ttl_s=3600)
def total(items: list[str]) -> Decimal:
    """The first of two steps: web.py reads its result and gives it to the second."""
    return sum((PRICES[item] for item in items), Decimal())


@queue.task(result_ttl_s=3600)
def invoice(order: int, amount: Decimal) -> str:
    """The second one."""
    return save(f"invoices/{order}.txt", f"Order {order}: {amount} EUR\n".encode())
