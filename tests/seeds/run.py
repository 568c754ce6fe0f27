"""Run the tests and the README's programs of redis-stream-queue 0.1.3 against us: run.py SDIST.

Its files are used as they are: only the client fixture is ours, and to the README's blocks only
imports, handlers and asyncio.run are added.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
from pathlib import Path

from tests.support.servers import Server

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = (  # these look into consumer._cg
    "test_dlq_on_decode_error",
    "test_nogroup_recovery_resets_created_flag",
)
INI = ("asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function")
ENOUGH_S = 1.5  # for what runs for ever
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

ADDED = """
import asyncio
from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer, StreamProducer
client = StreamClient(host="localhost")
async def handle(messages):
    return [m.id for m in messages]
handle_a = handle_b = handle_c = handle
cfg_a = cfg_b = cfg_c = ConsumerConfig(group="order_workers")
producer = StreamProducer(client, "orders")
"""


def run_tests(sdist: Path, url: str) -> bool:
    tests = sdist / "tests"
    shutil.copy(ROOT / "tests" / "seeds" / "fixtures.py", tests / "conftest.py")
    ini = [part for option in INI for part in ("-o", option)]
    left_out = [f"--deselect=tests/test_consumer.py::{name}" for name in PRIVATE]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            f"--rootdir={sdist}",
            *ini,
            *left_out,
            tests,
        ],
        cwd=sdist,
        env={**os.environ, "REDIS_URL": url, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    return done.returncode == 0


async def run_block(text: str, port: int) -> None:
    """Run one block; what runs for ever is cancelled."""
    text = f"{ADDED}\n{text}".replace("asyncio.run(main())", "")
    text = text.replace('host="localhost"', f'host="localhost", port={port}')
    if "async def main" in text:
        text += "\nawait main()"
    names: dict[str, object] = {}
    exec(f"async def program():\n{textwrap.indent(text, '    ')}", names)
    program = names["program"]
    assert callable(program)
    try:
        async with asyncio.timeout(ENOUGH_S):
            await program()
    except TimeoutError:
        print("  (ended after a while)")


def run_blocks(sdist: Path, port: int) -> bool:
    failed = 0
    blocks = BLOCK.findall((sdist / "README.md").read_text())
    for number, block in enumerate(blocks, 1):
        if "(...," in block or "> stream=" in block:
            print(f"README block {number}: no program")
            continue
        print(f"README block {number}")
        try:
            asyncio.run(run_block(block, port))
        except Exception as error:
            failed += 1
            print(f"  {type(error).__name__}: {error}")
    print(f"README: {len(blocks)} blocks, {failed} failed")
    return not failed


def main(archive: Path) -> int:
    with tempfile.TemporaryDirectory() as directory, Server.start("redis-8.2", tcp=True) as server:
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
        [sdist] = Path(directory).iterdir()
        results = [run_tests(sdist, server.url), run_blocks(sdist, server.port)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
