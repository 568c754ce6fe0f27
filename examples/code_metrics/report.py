"""Print what the workers found, and check that every file was handled."""

import json
import sys
from collections import Counter
from pathlib import Path

from app import RESULTS, STREAM, connect

redis = connect()
groups = redis.xinfo_groups(STREAM) if redis.exists(STREAM) else []
if not groups:
    sys.exit("Nothing was handled yet. Run push.py, then: rsq-pool --burst app:handle")
delivered = len(redis.xrange(STREAM, max=groups[0]["last-delivered-id"]))
acknowledged = delivered - groups[0]["pending"]
pushed, dead = redis.xlen(STREAM), redis.xlen(f"{STREAM}_dlq")
results = {path: json.loads(found) for path, found in redis.hgetall(RESULTS).items()}


def total(measure: str) -> int:
    return sum(result.get(measure, 0) for result in results.values())


ranking = sorted(
    (-function["complexity"], function["name"], path, function["line"])
    for path, result in results.items()
    for function in result.get("most_complex", [])
)
print("\ncomplexity  function")
for complexity, name, path, line in ranking[:10]:
    print(f"{-complexity:10}  {name}  ({'/'.join(Path(path).parts[-2:])}:{line})")

times = [result["at"] for result in results.values()]
seconds = max(max(times) - min(times), 0.001) if times else 1.0
unparsable = sum("unparsable" in result for result in results.values())
print(f"\nfiles         {len(results):,}, unparsable {unparsable}")
print(f"lines         {total('lines'):,}")
print(f"functions     {total('functions'):,}")
print(f"classes       {total('classes'):,}")
print(f"per second    {len(results) / seconds:,.0f} files, {total('lines') / seconds:,.0f} lines")
for worker, count in Counter(result["worker"] for result in results.values()).most_common():
    print(f"worker {worker:<6} {count:,} messages")
print(f"acknowledged  {acknowledged:,} of {pushed:,} messages, dead letters {dead}")

if not len(results) == acknowledged == pushed:
    sys.exit("The counts do not match: not every file was handled exactly to its end.")
