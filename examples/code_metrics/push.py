"""Push one message per Python file: of the standard library, or of the directory that is named."""

import sys
import sysconfig
from pathlib import Path

from app import RESULTS, STREAM, URL, connect

from redis_stream_queue import StreamClient, StreamProducer

NOT_OURS = {"site-packages", "dist-packages", ".venv"}

root = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("stdlib")).resolve()
files = [f for f in root.rglob("*.py") if not NOT_OURS & set(f.relative_to(root).parts)]

connect().delete(STREAM, f"{STREAM}_dlq", RESULTS)  # what the last run left
producer = StreamProducer(StreamClient.from_url(URL), STREAM)
producer.push_many_sync([{"path": str(file)} for file in sorted(files)])
print(f"pushed {len(files)} files of {root}")
