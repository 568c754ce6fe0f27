"""The shop's pages, which leave the work to tasks.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel
from tasks import (
    HOUR_MS,
    RATES_URL,
    fetch_rates,
    invoice,
    queue,
    remind,
    save,
    send_mail,
    thumbnail,
    total,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    yield
    await queue.close()


app = FastAPI(lifespan=lifespan)


class Order(BaseModel):
    mail: str
    items: list[Literal["tea", "cup"]]


@app.post("/orders/{number}")
async def place(number: int, order: Order) -> dict[str, str]:
    await send_mail.push(order.mail, f"Order {number}", "Thank you!")
    once = remind.options(delay_ms=HOUR_MS, unique=f"remind:{number}")
    reminder = await once.push(number, order.mail)

    priced = await total.push(list(order.items))
    amount = await priced.result(timeout_s=10)
    written = await invoice.push(number, amount)
    return {"invoice": await written.result(timeout_s=10), "reminder": reminder.id}


@app.delete("/reminders/{reminder}")
async def paid(reminder: str) -> dict[str, bool]:
    return {"taken back": await queue.job("remind", reminder).cancel()}


@app.put("/photos/{photo}")
async def upload(photo: int, request: Request) -> dict[str, str]:
    save(f"photos/{photo}.ppm", await request.body())
    job = await thumbnail.push(photo, width=32)
    return {"job": job.id}


@app.post("/rates")
async def refresh() -> dict[str, str]:
    job = await fetch_rates.options(unique="rates").push(RATES_URL)
    return {"job": job.id}
