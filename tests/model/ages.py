"""Idle times in virtual time: on the real server they grow as the rules say, and no faster.

What has really passed is taken away from them before each look, by the age of an entry that exists
for that alone; in one transaction no time passes. So a busy machine decides nothing.
"""

from __future__ import annotations

from typing import Any

# KEYS: the stream, that of the entry whose age is real. ARGV: the groups.
_REWIND = """
local told = redis.pcall('XPENDING', KEYS[2], 'clock', '-', '+', 1)
if told.err or not told[1] then
  redis.call('XADD', KEYS[2], '1-0', 'f', 'v')
  redis.call('XGROUP', 'CREATE', KEYS[2], 'clock', '0')
  redis.call('XREADGROUP', 'GROUP', 'clock', 'clock', 'STREAMS', KEYS[2], '>')
  return
end
local passed_ms = told[1][3]
redis.call('XCLAIM', KEYS[2], 'clock', 'clock', 0, '1-0', 'JUSTID')
for _, group in ipairs(passed_ms > 0 and ARGV or {}) do
  local pending = redis.pcall('XPENDING', KEYS[1], group, '-', '+', 10000)
  for _, p in ipairs(pending.err and {} or pending) do
    if redis.call('XRANGE', KEYS[1], p[1], p[1])[1] then -- else the claim would drop it
      redis.call('XCLAIM', KEYS[1], group, p[2], 0, p[1],
                 'IDLE', math.max(p[3] - passed_ms, 0), 'RETRYCOUNT', p[4], 'JUSTID')
    end
  end
end
"""

# KEYS: the stream. ARGV: group, ms. Lets every pending entry grow older, and changes nothing else.
AGE = """
local aged = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 10000)
if aged.err then return 0 end
for _, p in ipairs(aged) do
  redis.call('XCLAIM', KEYS[1], ARGV[1], p[2], 0, p[1],
             'IDLE', p[3] + ARGV[2], 'RETRYCOUNT', p[4], 'JUSTID')
end
return #aged
"""


def rewind(stream: str, *groups: str) -> tuple[Any, ...]:
    """The command that takes away what has really passed since it ran last."""
    return ("EVAL", _REWIND, 2, stream, "model:clock", *groups)
