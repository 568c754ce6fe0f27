"""The same pages with Django, in one file: plain views push with push_sync(), from any thread.

A project with models, and what its workers need: docs/django.md.
"""

from __future__ import annotations

import json
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path
from tasks import (
    HOUR_MS,
    PRICES,
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


def place(request: HttpRequest, number: int) -> JsonResponse:
    order = json.loads(request.body)
    if unknown := set(order["items"]) - PRICES.keys():
        return JsonResponse({"not sold here": sorted(unknown)}, status=422)
    send_mail.push_sync(order["mail"], f"Order {number}", "Thank you!")
    once = remind.options(delay_ms=HOUR_MS, unique=f"remind:{number}")
    reminder = once.push_sync(number, order["mail"])

    amount = total.push_sync(order["items"]).result_sync(timeout_s=10)
    written = invoice.push_sync(number, amount).result_sync(timeout_s=10)
    return JsonResponse({"invoice": written, "reminder": reminder.id})


def paid(request: HttpRequest, reminder: str) -> JsonResponse:
    return JsonResponse({"taken back": queue.job("remind", reminder).cancel_sync()})


def upload(request: HttpRequest, photo: int) -> JsonResponse:
    save(f"photos/{photo}.ppm", request.body)
    return JsonResponse({"job": thumbnail.push_sync(photo, width=32).id})


def refresh(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"job": fetch_rates.options(unique="rates").push_sync(RATES_URL).id})


urlpatterns = [
    path("orders/<int:number>", place),
    path("reminders/<str:reminder>", paid),
    path("photos/<int:photo>", upload),
    path("rates", refresh),
]
settings.configure(
    ALLOWED_HOSTS=["localhost", "testserver"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="for development",
)

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
