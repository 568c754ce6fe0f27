"""Lua scripts of periodic messages.

One hash beside the stream has these fields for each message: ``spec:<name>``, ``payload:<name>``,
``last:<name>`` (the newest tick that was decided on), ``declared:<name>`` (since when its spec
holds), ``seen:<name>`` (when a process last declared it) and, if it is paused, ``paused:<name>``.
"""

from __future__ import annotations

from ..connection.scripts import Script
from ..connection.shapes import Either, an_id
from .scripts import FIND, NOW, UNFINISHED

# KEYS: cron. ARGV: 1 = these replace others (they are new here), then for each: name, spec, payload
# A new name begins now: nothing has been missed. Of two specs for one name the newest counts.
# What nobody has declared for 30 days is forgotten.
# Returns the time, then for each: 1 if its spec counts, its last tick, and since when it counts.
DECLARE = Script(
    NOW
    + """
local out = {now}
for _, field in ipairs(ARGV[1] == '1' and redis.call('HKEYS', KEYS[1]) or {}) do
  local name = string.match(field, '^seen:(.*)')
  local seen = name and tonumber(redis.call('HGET', KEYS[1], field))
  if seen and now - seen > 30 * 86400000 then
    for _, kind in ipairs({'last:', 'declared:', 'spec:', 'payload:', 'seen:', 'paused:'}) do
      redis.call('HDEL', KEYS[1], kind .. name)
    end
  end
end
for i = 2, #ARGV, 3 do
  local name, spec = ARGV[i], ARGV[i + 1]
  local known = redis.call('HGET', KEYS[1], 'spec:' .. name)
  if not known then redis.call('HSET', KEYS[1], 'last:' .. name, int(now)) end
  if not known or (known ~= spec and ARGV[1] == '1') then
    redis.call('HSET', KEYS[1], 'spec:' .. name, spec, 'declared:' .. name, int(now),
               'payload:' .. name, ARGV[i + 2])
    known = spec
  end
  if known == spec then redis.call('HSET', KEYS[1], 'seen:' .. name, int(now)) end
  local last = tonumber(redis.call('HGET', KEYS[1], 'last:' .. name)) or now
  local declared = tonumber(redis.call('HGET', KEYS[1], 'declared:' .. name)) or now
  out[#out + 1] = known == spec and 1 or 0
  out[#out + 1] = last
  out[#out + 1] = declared
end
return out
"""
).returning([int, ...])

# KEYS: stream, later, unique, cron. ARGV: name, group, spec, tick in ms, the same as text, how many
#       it stands for, payload, 1 = push it (else note only that it has passed), key that is unique
#       while its message is unfinished ('' = none), the newest tick that the caller knows of
# Decides on one tick, once for all hosts; not where others have decided on more than the caller
# knew of when it counted what was missed ('changed').
# Returns the time, what came of it, and the newest tick that was decided on. (-1 = there is no such
# name any more.)
TICK = Script(
    NOW
    + FIND
    + UNFINISHED
    + """
local name, tick = ARGV[1], tonumber(ARGV[4])
local spec = redis.call('HGET', KEYS[4], 'spec:' .. name)
if not spec then return {now, 'unknown', -1} end
local last = tonumber(redis.call('HGET', KEYS[4], 'last:' .. name)) or 0
if spec ~= ARGV[3] then return {now, 'superseded', last} end
if now < tick then return {now, 'early', last} end
if last >= tick then return {now, 'done', last} end
if last > tonumber(ARGV[10]) then return {now, 'changed', last} end
local said, key = 'skipped', ARGV[9]
if redis.call('HEXISTS', KEYS[4], 'paused:' .. name) == 1 then
  said = 'paused'
elseif ARGV[8] == '1' then
  local running = key ~= '' and redis.call('HGET', KEYS[3], key)
  if running and unfinished(KEYS[1], KEYS[2], ARGV[2], running, true) then
    said = 'overlap'
  else
    redis.call('HSET', KEYS[4], 'spec:' .. name, spec) -- may this user? It changes nothing
    local add = {'XADD', KEYS[1], '*', 'data', ARGV[7], 'rsq:cron', name, 'rsq:tick', ARGV[5]}
    if ARGV[6] ~= '0' then add[#add + 1], add[#add + 2] = 'rsq:missed', ARGV[6] end
    if key ~= '' then add[#add + 1], add[#add + 2] = 'rsq:unique', key end
    local id = redis.call(unpack(add))
    if key ~= '' then redis.call('HSET', KEYS[3], key, id) end
    said = 'pushed'
  end
end
redis.call('HSET', KEYS[4], 'last:' .. name, ARGV[4])
return {now, said, tick}
"""
).returning((int, bytes, int))

# KEYS: stream, cron. ARGV: name. Pushes it now, beside its ticks. Returns its id, '' if unknown.
RUN_NOW = Script("""
local payload = redis.call('HGET', KEYS[2], 'payload:' .. ARGV[1])
if not payload then return '' end
return redis.call('XADD', KEYS[1], '*', 'data', payload, 'rsq:cron', ARGV[1], 'rsq:manual', '1')
""").returning(Either(an_id, b""))

# KEYS: cron. ARGV: name, 1 = pause, 0 = go on. Returns 1 if that changes something, -1 if unknown.
PAUSE_NAME = Script(
    NOW
    + """
if redis.call('HEXISTS', KEYS[1], 'spec:' .. ARGV[1]) == 0 then return -1 end
local field = 'paused:' .. ARGV[1]
if ARGV[2] == '0' then return redis.call('HDEL', KEYS[1], field) end
return redis.call('HSETNX', KEYS[1], field, int(now))
"""
).returning(int)
