"""docs/django.md, docs/web.md and docs/testing.md do what they say: their files and commands run
here as they stand there."""

from __future__ import annotations

import re

from tests.guide.conftest import ROOT, Shell
from tests.guide.test_readme import Block, blocks_of

FILE_NAME = re.compile(r"# ([\w/]+\.py)\n")


def copied(shell: Shell, page: str) -> list[Block]:
    """Somebody has copied all files of a page; returns its blocks."""
    blocks = blocks_of(ROOT / "docs" / page)
    for block in blocks:
        if block.language == "python" and (name := FILE_NAME.match(block.text)):
            (shell.directory / name[1]).parent.mkdir(exist_ok=True)
            shell.write(name[1], block.text)
    return blocks


def commands(blocks: list[Block]) -> str:
    return "\n".join(block.text for block in blocks if block.language == "sh")


def test_django(shell: Shell) -> None:
    """Orders that are placed in a transaction are paid by a pool that uses the same models."""
    blocks = copied(shell, "django.md")
    (shell.directory / "shop" / "__init__.py").touch()
    said = shell.run(commands(blocks))
    assert sorted(re.findall(r"paid (\d)", said)) == ["0", "1", "2"]
    shell.write(
        "look.py",
        "import handlers\n"
        "from shop.models import Order\n"
        "print('paid orders:', Order.objects.filter(paid=True).count())\n",
    )
    assert "paid orders: 3" in shell.run("python look.py")


def test_web(shell: Shell) -> None:
    """What both frameworks push, a pool handles."""
    blocks = copied(shell, "web.md")
    shell.environment["REDIS_URL"] = f"embedded://{shell.directory}/redis-data"
    shell.write(
        "requests_.py",
        "from fastapi.testclient import TestClient\n"
        "import fast, plain\n"
        "with TestClient(fast.app) as client:\n"
        "    assert '-' in client.post('/orders/1').json()['id']\n"
        "assert '-' in plain.app.test_client().post('/orders/2').json['id']\n",
    )
    said = shell.run("python requests_.py\n" + commands(blocks))
    assert sorted(re.findall(r"paid (\d)", said)) == ["1", "2"]


def test_testing(shell: Shell) -> None:
    """All three kinds of tests pass."""
    said = shell.run(commands(copied(shell, "testing.md")))
    assert "4 passed" in said
