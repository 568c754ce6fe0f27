"""Lua scripts of what stands beside a stream. Each is atomic: done wholly, or not at all.

The clock is the server's (TIME), one for all hosts. Every key a script touches is among its KEYS.

What Redis has written stays when a script fails behind it. So what can be refused (a key that
somebody else has written, a right that is missing) comes before the first write, costs one message,
or is a pcall where it is of no weight: a ring, a note.
"""

from __future__ import annotations

from ..connection.dlq_scripts import REQUEUED, REQUEUING
from ..connection.scripts import BELOW, Script
from ..connection.shapes import PAIRS, Either

# now: ms since the epoch. int(n): a number as Redis reads it (Lua writes 1.7e12).
NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function int(n) return string.format('%.0f', n) end
"""

# forbidden(command, ...): an error if this user may not run it (before Redis 7.0 nobody tells).
MAY = """
local function forbidden(...)
  if not redis.acl_check_cmd or redis.acl_check_cmd(...) then return false end
  return {err = 'NOPERM this user has no permissions to run ' .. select(1, ...)}
end
"""

# A scheduled message is a member of a sorted set, by the time it is due:
# <due, 13 digits>-<number, 12 digits>:<bytes of headers>:<headers as a JSON list><payload>
# rank_of(key, score, id, behind): rank of the first member of this score, or of a greater one, that
# is not below this id (without its '@'); behind: that is above it.
# find(key, id): rank and member, nil if there is none.
FIND = """
local function rank_of(key, score, id, behind)
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  local high = redis.call('ZCOUNT', key, '-inf', score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = string.sub(redis.call('ZRANGE', key, middle, middle)[1], 1, 26)
    if found < id or behind and found == id then low = middle + 1 else high = middle end
  end
  return low
end
local function find(key, id)
  local rank = rank_of(key, string.sub(id, 1, 13), id)
  local member = redis.call('ZRANGE', key, rank, rank)[1]
  if member and string.sub(member, 1, 26) == id then return rank, member end
end
"""

# fields(member): what its entry holds beside the payload, and the payload. What is no member of
# ours (no list of pairs of texts, or of more than one command takes) is a payload as a whole.
FIELDS = """
local function fields(member)
  local _, last, size = string.find(member, '^%d+-%d+:(%d+):')
  if not size or last ~= 28 + #size or last + size > #member then return {}, member end
  size = tonumber(size)
  local parts = {}
  if size > 0 then
    local ok, found = pcall(cjson.decode, string.sub(member, last + 1, last + size))
    if not ok or type(found) ~= 'table' or #found % 2 > 0 or #found > 7100 then
      return {}, member
    end
    for i = 1, #found do
      if type(found[i]) ~= 'string' then return {}, member end
    end
    parts = found
  end
  return parts, string.sub(member, last + size + 1)
end
"""

# What whoever waits for the result of a cancelled message gets; see delivery/answers.py.
CANCELLED = b'E["cancelled", "it was cancelled"]'

# tell(results, id, parts, answer): writes this answer for whoever waits for the result of the
# message with this id and these fields. results: how the keys of all results begin.
TELL = """
local function tell(results, id, parts, answer)
  local of = {}
  for i = 1, #parts - 1, 2 do of[parts[i]] = parts[i + 1] end
  local ttl = tonumber(of['rsq:result'])
  if not ttl or ttl < 1 or ttl > 31622400000 then return end
  local key = results .. ':' .. (of['rsq:first'] or of['rsq:scheduled'] or id)
  if type(redis.pcall('RPUSH', key, answer)) == 'number' then
    redis.pcall('PEXPIRE', key, string.format('%.0f', ttl))
  end
end
"""

# unfinished(stream, later, group, id, started_counts): is this message waiting (scheduled or
# unread) or, if that counts, pending in the group? A note beside the stream names an id; this is
# what decides. (A script asks about one group only.)
UNFINISHED = (
    BELOW
    + """
local read_to
local function unfinished(stream, later, group, id, started_counts)
  if string.sub(id, 1, 1) == '@' then return find(later, string.sub(id, 2)) ~= nil end
  if redis.pcall('XPENDING', stream, group, id, id, 1)[1] then return started_counts end
  if not read_to then
    read_to = '0-0'
    local groups = redis.pcall('XINFO', 'GROUPS', stream)
    for _, flat in ipairs(groups.err and {} or groups) do
      local g = {}
      for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
      if g['name'] == group then read_to = g['last-delivered-id'] end
    end
  end
  return below(read_to, id) and redis.call('XRANGE', stream, id, id)[1] ~= nil
end
"""
)

# KEYS: stream, later, seq, bell, unique, then one for each dedup_id.
# ARGV: most scheduled (0 = any number), group, how many must fit, or none is scheduled (0 = as many
#       as fit), then for each message: when ('' = now, +ms, =ms since the epoch), index of its
#       dedup key (0 = none), ms of that window, unique key ('' = none; it begins with <bytes of the
#       group>:<group>:), 1 = what has started counts, headers as a JSON list ('' = none), payload
# Adds each to the stream, or to the scheduled ones, unless it was pushed before (dedup) or the
# same work is unfinished (unique).
# Returns for each: its id; {the first one's id, 1} for a duplicate; or an error. A right for the
# notes that is missing is one, too: what was pushed without them would be pushed again.
PUSH_WITH = Script(
    NOW
    + MAY
    + FIND
    + UNFINISHED
    + """
local most, out, first, noted = tonumber(ARGV[1]), {}, nil, {}
local function of_key(reply, key)
  if type(reply) ~= 'table' or not string.find(reply.err or '', 'WRONGTYPE', 1, true) then
    return reply
  end
  return {err = 'WRONGTYPE the key ' .. key .. ' holds something else: delete or rename it'}
end
local function or_error(ask, ...)
  local ok, got = pcall(ask, ...)
  if ok or type(got) == 'table' then return got end
  return {err = tostring(got)}
end
local room = most > 0 and most - redis.call('ZCARD', KEYS[2]) or math.huge
if room < tonumber(ARGV[3]) then room = 0 end
for i = 4, #ARGV, 7 do
  local when, window, key = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 3]
  local headers, payload = ARGV[i + 5], ARGV[i + 6]
  local kind, ms = string.sub(when, 1, 1), tonumber(string.sub(when, 2)) or 0
  local due = kind == '+' and now + ms or ms
  local known, id = false, nil
  if window > 0 then known = of_key(redis.pcall('GET', KEYS[5 + window]), KEYS[5 + window]) end
  if not known and key ~= '' then
    known = of_key(redis.pcall('HGET', KEYS[5], key), KEYS[5])
    if type(known) == 'string' then
      local args = {KEYS[1], KEYS[2], ARGV[2], known, ARGV[i + 4] == '1'}
      local is = or_error(unfinished, unpack(args))
      if is ~= true then known = is end
    end
  end
  if not known then
    known = window > 0 and forbidden('SET', KEYS[5 + window], '')
            or key ~= '' and forbidden('HSET', KEYS[5], key, '')
  end
  if known then
    id = type(known) == 'string' and {known, 1} or known
  elseif due <= now then
    local parts = headers ~= '' and cjson.decode(headers) or {}
    id = redis.pcall('XADD', KEYS[1], '*', 'data', payload, unpack(parts))
  elseif room <= 0 then
    id = {err = 'FULL ' .. ARGV[1] .. ' messages are scheduled'}
  else
    if string.find(headers, '"rsq:ttl"', 1, true) then
      headers = string.sub(headers, 1, -2) .. ',"rsq:pushed","' .. int(now) .. '"]'
    end
    id = of_key(redis.pcall('INCR', KEYS[3]), KEYS[3])
    if type(id) == 'number' then
      local number = string.format('%013.0f-%012.0f', due, id)
      local member = number .. ':' .. #headers .. ':' .. headers .. payload
      id = of_key(redis.pcall('ZADD', KEYS[2], due, member), KEYS[2])
      if type(id) == 'number' then
        id, room = '@' .. number, room - 1
        if not first or due < first then first = due end
      end
    end
  end
  out[#out + 1] = id
  if type(id) == 'string' then
    if window > 0 then redis.call('SET', KEYS[5 + window], id, 'PX', ARGV[i + 2]) end
    if key ~= '' then
      redis.call('HSET', KEYS[5], key, id)
      noted[key] = true
    end
  end
end
-- of the notes that are void two go with each call, so that they never become the most
local own = #ARGV[2] .. ':' .. ARGV[2] .. ':'
pcall(function()
  for _, key in ipairs(next(noted) and redis.call('HRANDFIELD', KEYS[5], 2) or {}) do
    if string.sub(key, 1, #own) == own and not noted[key]
       and not unfinished(KEYS[1], KEYS[2], ARGV[2], redis.call('HGET', KEYS[5], key), true) then
      redis.call('HDEL', KEYS[5], key)
    end
  end
end)
if first and redis.pcall('ZCOUNT', KEYS[2], '-inf', '(' .. int(first)) == 0 then
  redis.pcall('XADD', KEYS[4], 'MAXLEN', '~', 16, '*', 'due', int(first))
end
return out
"""
).returning([Either(bytes, (bytes, int), Exception)])

# KEYS: stream, later, unique, control, retried. ARGV: most messages, most bytes, the mover's name,
#       ms for which it leads where more is due than that (0 = it does not), seconds of the server's
#       processor time behind which it stops
# Moves what is due into the stream, the oldest first. Where the machine is slow for a moment it
# stops early, so that nobody waits for long (TIME stands still within a script; os.clock() is
# there since Redis 7.4).
# Who leads moves alone, so that others' calls do not pile up at the server: it says so with each
# call, and whoever asks meanwhile is told when to come back. (A note for politeness. If it is lost
# or the leader dies, somebody else goes on.)
# Returns the time, ms until the next call is worth while (0 = more is due, -1 = nothing is
# scheduled), how late they were, as a flat list of ms and how many, and what is paused. An error
# only if nothing was moved for it. (Most have no headers, and a million may be due at once: little
# is done for each.)
MOVE = Script(
    NOW
    + MAY
    + FIELDS
    + """
local control, lead = redis.pcall('HGETALL', KEYS[4]), tonumber(ARGV[4])
if control.err then control = {} end
local left, leader = 0, nil
for i = 1, #control, 2 do
  if control[i] == 'moving' then left, leader = string.match(control[i + 1], '^(%d+):(.*)$') end
end
left = (tonumber(left) or 0) - now
if leader ~= ARGV[3] and left > 0 and left <= 1000 then return {now, left, {}, control} end

local most = math.min(redis.call('ZCOUNT', KEYS[2], '-inf', int(now)), tonumber(ARGV[1]))
local never = most > 0 and forbidden('ZREMRANGEBYRANK', KEYS[2], 0, 0)
if never then return never end
local add, sub, byte = redis.pcall, string.sub, string.byte
local stream, most_bytes = KEYS[1], tonumber(ARGV[2])
local late, moved, bytes, page, failed, due = {}, 0, 0, 1, nil, nil
local timed, clock = pcall(function() return os.clock end)
local stop_s = timed and clock() + tonumber(ARGV[5])
while moved < most and bytes < most_bytes and not failed do
  local members = redis.call('ZRANGE', KEYS[2], moved, math.min(moved + page, most) - 1)
  local one_time = sub(members[1], 1, 13) == sub(members[#members], 1, 13)
  for m = 1, #members do
    local member, id = members[m], nil
    local scheduled = '@' .. sub(member, 1, 26)
    local colon, zero, last = byte(member, 27, 29)
    if colon == 58 and zero == 48 and last == 58 then
      id = add('XADD', stream, '*', 'data', sub(member, 30), 'rsq:scheduled', scheduled)
    else
      local parts, payload = fields(member)
      id = add('XADD', stream, '*', 'data', payload, 'rsq:scheduled', scheduled, unpack(parts))
      for i = 1, type(id) == 'string' and #parts - 1 or 0, 2 do
        if parts[i] == 'rsq:unique' and redis.pcall('HGET', KEYS[3], parts[i + 1]) == scheduled then
          redis.pcall('HSET', KEYS[3], parts[i + 1], id)
        elseif parts[i] == 'rsq:first' then
          redis.pcall('HSET', KEYS[5], parts[i + 1], id)
        end
      end
    end
    if type(id) == 'table' then
      failed = id
      break
    end
    moved, bytes = moved + 1, bytes + #member
    if m == 1 or not one_time then
      local at = sub(member, 1, 13)
      if at ~= due then
        due = at
        late[#late + 1], late[#late + 2] = math.max(now - (tonumber(at) or now), 0), 0
      end
    end
    late[#late] = late[#late] + 1
  end
  page = math.min(page * 2, 16)
  if stop_s and clock() > stop_s then break end
end
if failed and moved == 0 then return failed end
if moved > 0 then redis.call('ZREMRANGEBYRANK', KEYS[2], 0, moved - 1) end
local following, wait = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2], -1
if following then wait = math.max(tonumber(following) - now, 0) end
if wait == 0 and lead > 0 then
  redis.pcall('HSET', KEYS[4], 'moving', int(now + lead) .. ':' .. ARGV[3])
elseif leader == ARGV[3] then
  redis.pcall('HDEL', KEYS[4], 'moving')
end
return {now, wait, late, control}
"""
).returning((int, int, [int], PAIRS))

# KEYS: dead-letter stream, target stream, later, unique. ARGV: see REQUEUING
# Sends a letter with a unique key back, which notes its new id; not while the same work is
# unfinished. Returns what requeue() does, and the id of the unfinished one.
REQUEUE_UNIQUE = Script(
    FIND
    + UNFINISHED
    + REQUEUING
    + """
local known
local id, key = requeue(function(key)
  known = redis.call('HGET', KEYS[4], key)
  local size, from = string.match(key, '^(%d+):()')
  local group = size and string.sub(key, from, from + size - 1)
  return not (known and group and unfinished(KEYS[2], KEYS[3], group, known, true))
end)
if type(id) == 'string' and key then redis.call('HSET', KEYS[4], key, id) end
return {id, known or false}
"""
).returning((REQUEUED, Either(bytes, None)))

# KEYS: later, then one for each dedup_id. ARGV: for each message: id, index of its dedup key (0 =
#       none)
# Takes back what a push that turned out to be too large has scheduled. Returns nothing.
TAKE_BACK = Script(
    FIND
    + """
for i = 1, #ARGV, 2 do
  local rank, window = find(KEYS[1], string.sub(ARGV[i], 2)), tonumber(ARGV[i + 1])
  if rank then
    redis.call('ZREMRANGEBYRANK', KEYS[1], rank, rank)
    if window > 0 and redis.call('GET', KEYS[1 + window]) == ARGV[i] then
      redis.call('DEL', KEYS[1 + window])
    end
  end
end
return {}
"""
).returning([])

# KEYS: later, results. ARGV: CANCELLED, then ids without their '@'
# Returns 1 for each that was scheduled and is not any more, else 0.
CANCEL_LATER = Script(
    FIND
    + FIELDS
    + TELL
    + """
local out = {}
for i = 2, #ARGV do
  local rank, member = find(KEYS[1], ARGV[i])
  if rank then
    redis.call('ZREMRANGEBYRANK', KEYS[1], rank, rank)
    tell(KEYS[2], '@' .. ARGV[i], (fields(member)), ARGV[1])
  end
  out[i - 1] = rank and 1 or 0
end
return out
"""
).returning([int])

# KEYS: later. ARGV: score and id to go on behind, the id without its '@' ('' = from the first), ms
#       since the epoch that it must be due before ('' = any), most messages, most bytes
# Returns for each: its id, its headers as a flat list, its payload, its score.
LIST_LATER = Script(
    FIND
    + FIELDS
    + """
local rank, bytes, out, last = 0, 0, {}, nil
if ARGV[1] ~= '' then rank = rank_of(KEYS[1], ARGV[1], ARGV[2], true) end
if ARGV[3] == '' then last = redis.call('ZCARD', KEYS[1])
else last = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[3]) end
while rank < last and #out < tonumber(ARGV[4]) and bytes < tonumber(ARGV[5]) do
  local member, score = unpack(redis.call('ZRANGE', KEYS[1], rank, rank, 'WITHSCORES'))
  local parts, payload = fields(member)
  out[#out + 1] = {'@' .. string.sub(member, 1, 26), parts, payload, score}
  rank, bytes = rank + 1, bytes + #member
end
return out
"""
).returning([(bytes, list, bytes, bytes)])

# KEYS: later. ARGV: ms since the epoch that it must be due before ('' = any), most messages
# Deletes the first ones. Returns how many.
PURGE_LATER = Script("""
local last = ARGV[1] == '' and '+inf' or '(' .. ARGV[1]
local count = math.min(redis.call('ZCOUNT', KEYS[1], '-inf', last), tonumber(ARGV[2]))
if count > 0 then redis.call('ZREMRANGEBYRANK', KEYS[1], 0, count - 1) end
return count
""").returning(int)
