"""Retries that wait for longer than LONG_MS are scheduled, so that they hold up no trimming.

Such a message leaves the stream, and comes back when it is due, as an entry with another id. Its
headers hold its first id, how often it was delivered and its last error. The consumer that reads it
gives it back with that number of deliveries; from then on it is a retry as all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..connection.link import Link
from ..connection.replies import text
from ..connection.scripts import Script
from ..connection.shapes import an_id
from .keys import Companions
from .scripts import FIND, NOW, UNFINISHED

LONG_MS = 600_000  # what waits longer than this is scheduled
DELIVERIES, LAST_ERROR = "rsq:deliveries", "rsq:last_error"
MOST_ERROR = 2000  # characters
AT_ONCE = 50

# KEYS: stream, later, seq, bell, unique, retried. ARGV: group, owner, then for each entry: id,
#       deliveries (-1 = as it is), ms to wait, its last error
# Schedules each entry that still belongs to the owner, and deletes it from the stream. Not where
# another group reads the stream (it would get the message again), nor entries of others' making.
# If ZADD fails (OOM, a right that is missing), the entry stays as it is. The notes beside it are of
# no weight.
# Returns the ids of those that are scheduled now.
POSTPONE = Script(
    NOW
    + FIND
    + UNFINISHED
    + """
local moved, earliest = {}, nil
if #redis.call('XINFO', 'GROUPS', KEYS[1]) ~= 1 then return moved end
local renewed = {['rsq:scheduled'] = 1, ['rsq:first'] = 1, ['rsq:deliveries'] = 1,
                 ['rsq:last_error'] = 1}
for i = 3, #ARGV, 4 do
  local id, count = ARGV[i], tonumber(ARGV[i + 1])
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  local entry = p and redis.call('XRANGE', KEYS[1], id, id)[1]
  local fields = entry and entry[2] or {}
  if fields[1] == 'data' and #fields < 7000 then
    local known, parts = {}, {}
    for j = 3, #fields, 2 do
      known[fields[j]] = fields[j + 1]
      if not renewed[fields[j]] then
        parts[#parts + 1], parts[#parts + 2] = fields[j], fields[j + 1]
      end
    end
    local first = known['rsq:first'] or known['rsq:scheduled'] or id
    if known['rsq:ttl'] and not known['rsq:pushed'] then
      parts[#parts + 1], parts[#parts + 2] = 'rsq:pushed', string.match(id, '%d+')
    end
    for _, part in ipairs({'rsq:first', first, 'rsq:deliveries', count < 0 and int(p[4]) or
                           ARGV[i + 1], 'rsq:last_error', ARGV[i + 3]}) do
      parts[#parts + 1] = part
    end
    local due, headers = now + tonumber(ARGV[i + 2]), cjson.encode(parts)
    local number = string.format('%013.0f-%012.0f', due, redis.call('INCR', KEYS[3]))
    local member = number .. ':' .. #headers .. ':' .. headers .. fields[2]
    if redis.pcall('ZADD', KEYS[2], due, member) == 1 then
      redis.pcall('HSET', KEYS[6], first, '@' .. number)
      redis.call('XACK', KEYS[1], ARGV[1], id)
      redis.pcall('XDEL', KEYS[1], id)
      local key = known['rsq:unique']
      if key and redis.pcall('HGET', KEYS[5], key) == id then
        redis.pcall('HSET', KEYS[5], key, '@' .. number)
      end
      moved[#moved + 1] = id
      if not earliest or due < earliest then earliest = due end
    end
  end
end
-- of the notes about those that ended two go with each call, a day after they were due
local notes = earliest and redis.pcall('HRANDFIELD', KEYS[6], 2) or {}
for _, first in ipairs(notes.err and {} or notes) do
  local id = redis.call('HGET', KEYS[6], first)
  local due = tonumber(string.match(id, '^@?(%d+)')) or 0
  if due < now - 86400000 and not unfinished(KEYS[1], KEYS[2], ARGV[1], id, true) then
    redis.pcall('HDEL', KEYS[6], first)
  end
end
if earliest and redis.pcall('ZCOUNT', KEYS[2], '-inf', '(' .. int(earliest)) == 0 then
  redis.pcall('XADD', KEYS[4], 'MAXLEN', '~', 16, '*', 'due', int(earliest))
end
return moved
"""
).returning([an_id])


class Postponed(NamedTuple):
    """An entry to schedule.

    deliveries: how many to note, -1 = as many as Redis has counted. delay_ms: until it is due.
    error: its last error, cut to MOST_ERROR characters.
    """

    id: str
    deliveries: int
    delay_ms: int
    error: str


async def postpone(
    link: Link, beside: Companions, group: str, owner: str, entries: Sequence[Postponed]
) -> list[str]:
    """Schedule entries that ``owner`` holds; returns the ids of those that are scheduled now.

    The rest stays as it is; see POSTPONE. Raises what Redis raises.
    """
    moved: list[str] = []
    keys = [beside.stream, beside.later, beside.seq, beside.bell, beside.unique, beside.retried]
    for start in range(0, len(entries), AT_ONCE):
        args: list[Any] = []
        for one in entries[start : start + AT_ONCE]:
            args += (one.id, one.deliveries, one.delay_ms, one.error[-MOST_ERROR:])
        moved += map(text, await link.script(POSTPONE, keys, group, owner, *args))
    return moved
