"""Lua scripts on a dead-letter stream, KEYS[1]; no payload leaves the server."""

from __future__ import annotations

from .scripts import Script
from .shapes import Either, an_id

REQUEUED = Either(an_id, 0, -2, -3, -4)

# requeue(is_free): copies the letter without what burial added to the end of the target, then
# deletes it. is_free(key): may the message with this unique key be unfinished again?
# Returns the new id, 0 if the letter is gone, -2 if it has too many fields for a script, -3 if its
# payload was lost (see PendingList.bury), or -4 if its key is not free; and the key.
# KEYS: dead-letter stream, target stream. ARGV: letter id, most values, names of the fields added
#       at burial
REQUEUING = """
local function requeue(is_free)
local letter = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fields, added = letter[2], #ARGV - 2
if #fields > tonumber(ARGV[2]) then return -2 end
local keep = #fields - 2 * added
for i = 1, added do
  if fields[keep + 2 * i - 1] ~= ARGV[i + 2] then keep = #fields break end
end
if keep < 2 then keep = #fields end
if fields[1] == 'rsq:lost' then return -3 end
local add, key = {'XADD', KEYS[2], '*'}, nil
-- what it may take to start counts from now on, and so do its deliveries
local anew = {['rsq:pushed'] = 1, ['rsq:first'] = 1, ['rsq:deliveries'] = 1,
              ['rsq:last_error'] = 1}
for i = 1, keep, 2 do
  if not anew[fields[i]] then
    add[#add + 1], add[#add + 2] = fields[i], fields[i + 1]
  end
  if fields[i] == 'rsq:unique' then key = fields[i + 1] end
end
if key and not is_free(key) then return -4, key end
local id = redis.call(unpack(add))
redis.call('XDEL', KEYS[1], ARGV[1])
return id, key
end
"""

# One with a unique key is left to REQUEUE_UNIQUE, which looks at more keys.
REQUEUE = Script(REQUEUING + "return (requeue(function() return false end))").returning(REQUEUED)

# walk(after, most, see): calls see(id, fields, size) for each letter behind that id ('' = from the
# start), as far as one call may look: about 512 kB of letters.
WALK = """
local function walk(after, most, see)
  local seen, bytes, n = 0, 524288, 1
  while seen < most and bytes > 0 do
    local from, total = after == '' and '-' or '(' .. after, 0
    local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', n)
    for _, letter in ipairs(page) do
      local size = 0
      for _, value in ipairs(letter[2]) do size = size + #value end
      see(letter[1], letter[2], size)
      total = total + size
    end
    if #page < n then break end
    seen, after, bytes = seen + #page, page[#page][1], bytes - total
    if after == '18446744073709551615-18446744073709551615' then break end
    n = total < 32768 and math.min(n * 2, 100) or math.max(math.floor(n / 2), 1)
  end
end
"""

# ARGV: id to go on behind, most letters
# Returns an id and an original stream ('' = none) for each letter.
ORIGINS = Script(
    WALK
    + """
local found = {}
walk(ARGV[1], tonumber(ARGV[2]), function(id, fields)
  local origin = ''
  for i = 1, #fields, 2 do
    if fields[i] == 'original_stream' then origin = fields[i + 1] end
  end
  found[#found + 1], found[#found + 2] = id, origin
end)
return found
"""
).returning([bytes])

# ARGV: id to go on behind, most letters, most bytes of a value, field...
# Returns {id, size in bytes, {field, value...}} for each letter: of its fields the named ones.
HEADS = Script(
    WALK
    + """
local heads, named = {}, {}
for i = 4, #ARGV do named[ARGV[i]] = true end
walk(ARGV[1], tonumber(ARGV[2]), function(id, fields, size)
  local shown = {}
  for i = 1, #fields, 2 do
    if named[fields[i]] then
      shown[#shown + 1], shown[#shown + 2] = fields[i], string.sub(fields[i + 1], 1, ARGV[3])
    end
  end
  heads[#heads + 1] = {id, size, shown}
end)
return heads
"""
).returning([(an_id, int, [bytes])])

# ARGV: most letters
# Returns the ids of the newest ones, the newest first.
NEWEST = Script("""
local ids, before = {}, '+'
for i = 1, ARGV[1] do
  local letter = redis.call('XREVRANGE', KEYS[1], before, '-', 'COUNT', 1)[1]
  if not letter then break end
  ids[i], before = letter[1], '(' .. letter[1]
  if letter[1] == '0-1' then break end
end
return ids
""").returning([an_id])

# ARGV: id...
# Returns the original stream of each of these letters: '' = it names none, 0 = it is gone.
ORIGINS_OF = Script("""
local origins = {}
for i, id in ipairs(ARGV) do
  local letter, origin = redis.call('XRANGE', KEYS[1], id, id)[1], 0
  if letter then
    origin = ''
    for j = 1, #letter[2], 2 do
      if letter[2][j] == 'original_stream' then origin = letter[2][j + 1] end
    end
  end
  origins[i] = origin
end
return origins
""").returning([Either(bytes, int)])
