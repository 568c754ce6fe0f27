"""Lua scripts: every write that must first look whether the world is still as it was seen.

All take the stream as KEYS[1] and the group as ARGV[1] where they need one. ``XPENDING`` with the
same id twice is the look; what does not match is left alone and reported.
"""

from __future__ import annotations

import hashlib
from typing import Self

from .shapes import ENTRY, Either, Shape, an_id, ids_or_errors, of_script, positive


class Script:
    """Source of a script and the SHA-1 that EVALSHA wants."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def returning(self, shape: Shape) -> Self:
        """What its reply looks like."""
        of_script[self.sha] = of_script[self.source] = shape
        return self


# (Lua passes at most about 8,000 values to one command: no script unpacks more than its caller
# bounds, and what needs more goes another way.)

BELOW = """
local function below(a, b)
  local am, as = string.match(a, '(%d+)-(%d+)')
  local bm, bs = string.match(b, '(%d+)-(%d+)')
  if am ~= bm then return #am < #bm or (#am == #bm and am < bm) end
  return #as < #bs or (#as == #bs and as < bs)
end
"""

# make_name(): makes the consumer ARGV[2]; 1 if it was not there, 0 if it was. Where that is refused
# (memory is short, an ACL forbids it) it looks, and whatever is claimed makes it.
MAKE_NAME = """
local function make_name()
  local made = redis.pcall('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[2])
  if type(made) == 'number' then return made end
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    for i = 1, #flat, 2 do
      if flat[i] == 'name' and flat[i + 1] == ARGV[2] then return 0 end
    end
  end
  return 1
end
"""

# ARGV: group, consumer, 1 = its name is known to have been deleted, then for each entry: id,
#       delivery count
# Resets the idle time of the entries that still belong to the consumer. Where its name was deleted
# (XGROUP DELCONSUMER), and its entries with it, claims back those that nobody has: they are in the
# stream, and were delivered. (What is missing while the name was there was acknowledged: done.)
# Returns the ids that others hold, those that nobody holds, those that were claimed back, and 1 if
# the name was deleted.
RENEW = Script(
    BELOW
    + MAKE_NAME
    + """
local taken, gone, back, mine, missing = {}, {}, {}, {}, {}
local deleted = ARGV[3] == '1'
for i = 4, #ARGV, 2 do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if not p then
    missing[#missing + 1] = i
  elseif p[2] == ARGV[2] then
    mine[#mine + 1] = ARGV[i]
  else
    taken[#taken + 1] = ARGV[i]
  end
end
if #mine > 0 then
  mine[#mine + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(mine))
end
if #missing > 0 then
  local read_to = '0-0'
  deleted = deleted or make_name() == 1
  if deleted then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
      local g = {}
      for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
      if g['name'] == ARGV[1] then read_to = g['last-delivered-id'] end
    end
  end
  for _, i in ipairs(missing) do
    local id = ARGV[i]
    if deleted and not below(read_to, id) and redis.call('XRANGE', KEYS[1], id, id)[1] then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id,
                 'RETRYCOUNT', ARGV[i + 1], 'FORCE', 'JUSTID')
      back[#back + 1] = id
    else
      gone[#gone + 1] = id
    end
  end
end
return {taken, gone, back, deleted and 1 or 0}
"""
).returning(([an_id], [an_id], [an_id], int))

# ARGV: group, consumer, first id ('(' before it = behind it), last id, most entries
# Renews what the consumer holds between two ids. Returns the last id that was renewed, or '' if
# there were fewer than that.
RENEW_RANGE = Script("""
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[2])
local ids = {}
for i, p in ipairs(held) do ids[i] = p[1] end
if #held > 0 then
  ids[#ids + 1] = 'JUSTID'
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
end
return #held == tonumber(ARGV[5]) and ids[#held] or ''
""").returning(Either(an_id, b""))

# ARGV: group, new owner, most bytes (0 = no payloads), then for each entry: id, owner, delivery
#       count (-1 = any), least idle ms (-1 = it stands at 0), new count
# Takes over each entry that is still as it was seen, with the new delivery count, until what was
# taken is larger than that. Without payloads its fields stay where they are.
# Returns {{id, fields}...} of what was taken, {id...} of what no longer exists (acknowledged), how
# many entries it has looked at, and 1 if it had to make the new owner's name.
TAKE = Script(
    MAKE_NAME
    + """
local taken, gone, bytes, i, most = {}, {}, 0, 4, tonumber(ARGV[3])
local made = make_name()
while i <= #ARGV and (most == 0 or bytes < most) do
  local id = ARGV[i]
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  local seen, least = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if p and p[2] == ARGV[i + 1] and (seen < 0 or p[4] == seen)
     and (least < 0 and p[3] <= 0 or least >= 0 and p[3] >= least) then
    local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', ARGV[i + 4]}
    if most == 0 then claim[9] = 'JUSTID' end
    local got = redis.call(unpack(claim))
    if most == 0 and got[1] then
      taken[#taken + 1] = {got[1], {}}
    elseif got[1] and got[1][2] then
      taken[#taken + 1] = got[1]
      for _, value in ipairs(got[1][2]) do bytes = bytes + #value end
    else
      redis.call('XACK', KEYS[1], ARGV[1], id)
      gone[#gone + 1] = id
    end
  end
  i = i + 5
end
return {taken, gone, (i - 4) / 5, made}
"""
).returning(([ENTRY], [an_id], positive, int))

# ARGV: id...
# Returns the size in bytes of the fields of each, as far as one call may look: about 512 kB.
SIZES = Script("""
local sizes, bytes = {}, 524288
for i, id in ipairs(ARGV) do
  if bytes <= 0 then break end
  local entry, size = redis.call('XRANGE', KEYS[1], id, id)[1], 0
  for _, value in ipairs(entry and entry[2] or {}) do size = size + #value end
  sizes[i], bytes = size, bytes - size
end
return sizes
""").returning([int, ...])

# ARGV: group, owner, then for each entry: id, delivery count (-1 = any), parking name, idle ms,
#       new count (-1 = as it is)
# Moves each entry that still belongs to the owner to its parking name.
# Returns the ids that were moved.
PARK = Script("""
local parked = {}
for i = 3, #ARGV, 5 do
  local id, seen, count = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 4])
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2])[1]
  if p and (seen < 0 or p[4] == seen) then
    if count < 0 then count = p[4] end
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[i + 2], 0, id,
               'IDLE', ARGV[i + 3], 'RETRYCOUNT', count, 'JUSTID')
    parked[#parked + 1] = id
  end
end
return parked
""").returning([an_id])

# KEYS: stream, dead-letter stream, what keys of results begin with (missing: nobody waits).
# ARGV: group, owner, id, MAXLEN ~ (0 = none), group to create
#       on the dead-letter stream where that is new ('' = none), most values (0 = the extra fields
#       alone), field, value...
# Copies the entry with the extra fields and acknowledges it, if it still belongs to the owner.
# Returns the dead letter's id, 0 if it is not the owner's any more, -1 if the entry is gone
# (acknowledged), -2 if it has too many fields for a script. XADD comes first: when it fails (OOM),
# nothing has changed. Whoever waits for its result is told why there is none.
BURY = Script("""
if not redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])[1] then return 0 end
local entry = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3])[1]
if not entry then
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
  return -1
end
local most, fields = tonumber(ARGV[6]), entry[2]
if most == 0 then fields = {} elseif #fields + #ARGV > most then return -2 end
local add = {'XADD', KEYS[2]}
if tonumber(ARGV[4]) > 0 then
  add[3], add[4], add[5] = 'MAXLEN', '~', ARGV[4]
end
add[#add + 1] = '*'
for _, v in ipairs(fields) do add[#add + 1] = v end
for i = 7, #ARGV do add[#add + 1] = ARGV[i] end
local id = redis.call(unpack(add))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
local known, letter = {}, {}
for i = 1, #entry[2] - 1, 2 do known[entry[2][i]] = entry[2][i + 1] end
local ttl = KEYS[3] and tonumber(known['rsq:result'])
if ttl and ttl >= 1 and ttl <= 31622400000 then
  for i = 7, #ARGV - 1, 2 do letter[ARGV[i]] = ARGV[i + 1] end
  local key = KEYS[3] .. ':' .. (known['rsq:first'] or known['rsq:scheduled'] or ARGV[3])
  local why = cjson.encode({letter['reason'] or '', letter['last_error'] or ''})
  local written = redis.pcall('RPUSH', key, 'E' .. why)
  if type(written) ~= 'table' then redis.call('PEXPIRE', key, string.format('%.0f', ttl)) end
end
if ARGV[5] ~= '' and redis.call('XLEN', KEYS[2]) == 1 then
  redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[5], '0')
end
return id
""").returning(Either(an_id, 0, -1, -2))

# KEYS: stream to which the transaction has added an entry, key. ARGV: command, what follows the key
# Runs the command if that XADD has succeeded, else it is an error: Redis goes on with a transaction
# when a command of it is refused (the key is of another kind, the stream has no more ids).
IF_ADDED = Script("""
redis.call('XLEN', KEYS[1])
local stream, last = redis.pcall('XINFO', 'STREAM', KEYS[1]), '18446744073709551615'
for i = 1, stream.err and 0 or #stream, 2 do
  if stream[i] == 'last-generated-id' and stream[i + 1] == last .. '-' .. last then
    return {err = 'ERR ' .. KEYS[1] .. ' has no more ids'}
  end
end
return redis.call(ARGV[1], KEYS[2], unpack(ARGV, 2))
""").returning(int)

# ARGV: group, consumer...
# Deletes each consumer that holds nothing (DELCONSUMER alone would drop what it holds).
# Returns how many hold something.
PRUNE = Script("""
local left = 0
for i = 2, #ARGV do
  if redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[i])[1] then
    left = left + 1
  else
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[i])
  end
end
return left
""").returning(int)

# ARGV: group, consumer, least idle ms, cursor, count
# XAUTOCLAIM whose answer is the same on every server and carries delivery counts; entries that
# no longer exist are acknowledged. Returns {next cursor, {{id, count, fields}...}}.
AUTOCLAIM = Script("""
local page = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4],
                        'COUNT', ARGV[5], 'JUSTID')
local claimed = {}
for _, id in ipairs(page[2]) do
  local got = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)
  if got[1] and got[1][2] then
    local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
    claimed[#claimed + 1] = {id, p[4], got[1][2]}
  else
    redis.call('XACK', KEYS[1], ARGV[1], id)
  end
end
return {page[1], claimed}
""").returning((an_id, [(an_id, int, [bytes])]))

# count(after, counted): goes on counting the entries behind an id, as far as one call may: about
# 500 small ones, or 512 kB. Returns how many so far, the last id, and whether that is all (or
# as many as were asked for).
COUNT = """
local most, entries, bytes = tonumber(ARGV[1]), 500, 524288
local function count(after, counted)
  local n, last = 1, '18446744073709551615-18446744073709551615'
  if after == last then return counted, after, true end
  while counted < most and entries > 0 and bytes > 0 do
    local page, size = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', n), 0
    for _, entry in ipairs(page) do
      for _, value in ipairs(entry[2]) do size = size + #value end
    end
    counted, entries, bytes = counted + #page, entries - #page, bytes - size
    if #page > 0 then after = page[#page][1] end
    if #page < n or after == last then return counted, after, true end
    n = size < 32768 and math.min(n * 2, 100) or math.max(math.floor(n / 2), 1)
  end
  return counted, after, counted >= most
end
"""

# ARGV: most to count, id, counted so far
# Counts entries with a greater id. Returns how many so far, the id to go on from, 1 if that is all.
COUNT_AFTER = Script(
    COUNT
    + """
local counted, after, done = count(ARGV[2], tonumber(ARGV[3]))
return {counted, after, done and 1 or 0}
"""
).returning((int, an_id, int))

# ARGV: id
# Returns the first id of an entry after that, or nil: its payload may be large.
FIRST_AFTER = Script("""
local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1)
return entries[1] and entries[1][1]
""").returning(Either(an_id, None))

# ARGV: most to count where the server does not know a group's lag, then for each such group what
#       the call before returned: name, id, counted so far
# Returns 1 if all is counted, how many entries are unfinished in the group that is furthest behind
# (without any group that is the whole stream), and what to go on with.
BACKLOG = Script(
    COUNT
    + """
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  local missing = string.find(tostring(groups.err), 'no such key', 1, true)
  return missing and {1, 0, {}} or groups -- not permitted, say
end
if #groups == 0 then return {1, redis.call('XLEN', KEYS[1]), {}} end
local before = {}
for i = 2, #ARGV, 3 do before[ARGV[i]] = {ARGV[i + 1], tonumber(ARGV[i + 2])} end
local worst, all, states = 0, true, {}
for _, flat in ipairs(groups) do
  local g = {}
  for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
  local lag = g['lag']
  if not lag then
    local state, after, done = before[g['name']] or {g['last-delivered-id'], 0}
    lag, after, done = count(state[1], state[2])
    all = all and done
    states[#states + 1], states[#states + 2], states[#states + 3] = g['name'], after, lag
  end
  worst = math.max(worst, lag + g['pending'])
end
return {all and 1 or 0, worst, states}
"""
).returning((int, int, [Either(bytes, int)]))

# ARGV: field, number of header parts (2,000 at most), the parts, payload...
# Adds each payload with these headers. Returns one id, or one error, for each.
PUSH = Script("""
local first, parts, ids = ARGV[2] + 3, {}, {}
for i = 3, first - 1 do parts[#parts + 1] = ARGV[i] end
for i = first, #ARGV do
  ids[#ids + 1] = redis.pcall('XADD', KEYS[1], '*', ARGV[1], ARGV[i], unpack(parts))
end
return ids
""").returning(ids_or_errors)

# ARGV: group ('' = none), length to keep, most entries to trim
# Trims finished entries only: everything below the oldest entry that some group has not read or
# not acknowledged. Returns {trimmed, length before, oldest unfinished id of ARGV[1] or '', oldest
# unfinished id of all, its group}.
TRIM = Script(
    BELOW
    + """
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then
  local missing = string.find(tostring(groups.err), 'no such key', 1, true)
  return missing and {0, 0, '', '', ''} or groups -- not permitted, say
end
local oldest, mine, blocker
for _, flat in ipairs(groups) do
  local g = {}
  for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
  local first
  if g['pending'] > 0 then
    first = redis.call('XPENDING', KEYS[1], g['name'])[2]
  else
    local ms, seq = string.match(g['last-delivered-id'], '(%d+)-(%d+)')
    if #seq < 15 then
      first = ms .. '-' .. string.format('%d', tonumber(seq) + 1)
    else
      first = g['last-delivered-id']
    end
  end
  if not oldest or below(first, oldest) then oldest, blocker = first, g['name'] end
  if g['name'] == ARGV[1] then mine = first end
end
local length = redis.call('XLEN', KEYS[1])
local surplus = math.min(length - tonumber(ARGV[2]), tonumber(ARGV[3]))
local trimmed = 0
if oldest and surplus > 0 then
  trimmed = redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest, 'LIMIT', surplus)
end
return {trimmed, length, mine or '', oldest or '', blocker or ''}
"""
).returning((int, int, Either(an_id, b""), Either(an_id, b""), bytes))
