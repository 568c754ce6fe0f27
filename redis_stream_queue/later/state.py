"""One message by its id: where it is, and cancelling it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .._burial_mark import read_count
from .._names import parking_due_ms
from ..connection.link import Link
from ..connection.replies import entry_message, text
from ..connection.scripts import BELOW, Script
from ..connection.shapes import PENDING, Either, an_id
from ..exceptions import ConfigError
from ..message import is_entry_id
from .ids import as_datetime, due_ms, is_scheduled
from .keys import companions
from .scripts import CANCELLED, FIELDS, FIND, TELL


def more(reply: Any) -> bool:
    """Is this where a script wants to look on with the next call? (An id that follows.)"""
    return type(reply) is bytes and reply[:1] == b"(" and an_id(reply[1:])


# moved(id, after): the entry that a scheduled message has become: it is no older than its time.
# Looks at 300 entries (a ms) from ``after`` on ('' = from its time on); returns the entry, or nil
# and from where to look on with the next call (nil at the end of the stream).
# where(id, retried, after): the message's id of now: of a scheduled one, else of its entry; where
# it is not found, as moved(). retried: key of the notes of where long retries are.
# each_group(id, entry, see): see(group, line of XPENDING or nil, has the group read it?) for each.
GROUPS = (
    BELOW
    + """
local function moved(id, after)
  local seen, bytes = 0, 0
  if after == '' then after = string.match(id, '^@0*(%d+)-') .. '-0' end
  while seen < 300 and bytes < 1048576 do
    local page = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 20)
    for _, entry in ipairs(page) do
      for i = 1, #entry[2] - 1, 2 do
        if entry[2][i] == 'rsq:scheduled' and entry[2][i + 1] == id then return entry[1] end
        bytes = bytes + #entry[2][i + 1]
      end
      after = '(' .. entry[1]
    end
    seen = seen + #page
    if #page < 20 then return end
  end
  return nil, after
end
local function where(id, retried, after)
  local noted = redis.pcall('HGET', retried, id)
  if type(noted) == 'string' and string.find(noted, '^@?%d+%-%d+$') then id = noted end
  if string.sub(id, 1, 1) ~= '@' or find(KEYS[2], string.sub(id, 2)) then return id end
  return moved(id, after)
end
local function each_group(id, see)
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, flat in ipairs(groups.err and {} or groups) do
    local g = {}
    for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
    local line = redis.call('XPENDING', KEYS[1], g['name'], id, id, 1)[1]
    see(g['name'], line, not below(g['last-delivered-id'], id))
  end
end
"""
)

# KEYS: stream, later, bell, retried, cancelled, results. ARGV: id, from where to look on (see
#       more()), CANCELLED
# Takes a message back: it is removed from wherever it is unfinished. Of one that runs the bell
# tells, and a note for whoever has not heard the bell, by the ms of its id. Whoever waits for its
# result is told in the same step.
# Returns what it was (scheduled, waiting, retrying, running), '' if it is gone; or more().
CANCEL = Script(
    FIND
    + FIELDS
    + TELL
    + GROUPS
    + """
local state, groups, id, behind = '', 0, where(ARGV[1], KEYS[4], ARGV[2])
if not id then return behind or '' end
if string.sub(id, 1, 1) == '@' then
  local rank, member = find(KEYS[2], string.sub(id, 2))
  redis.call('ZREMRANGEBYRANK', KEYS[2], rank, rank)
  tell(KEYS[6], id, (fields(member)), ARGV[3])
  return 'scheduled'
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
local exists = entry ~= nil
each_group(id, function(group, line, has_read)
  groups = groups + 1
  if line then
    local parking = group .. ':retry:'
    local parked = string.sub(line[2], 1, #parking) == parking
    if not parked then state = 'running' elseif state ~= 'running' then state = 'retrying' end
    redis.call('XACK', KEYS[1], group, id)
  elseif exists and not has_read and state == '' then
    state = 'waiting'
  end
end)
if groups == 0 and exists then state = 'waiting' end
if state ~= '' then
  redis.call('XDEL', KEYS[1], id)
  if exists then tell(KEYS[6], id, entry[2], ARGV[3]) end
end
if state == 'running' then
  redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', 16, '*', 'cancel', id)
  redis.pcall('ZADD', KEYS[5], string.match(id, '%d+'), id)
  redis.pcall('ZREMRANGEBYRANK', KEYS[5], 0, -10001)
  redis.pcall('PEXPIRE', KEYS[5], 3600000)
end
return state
"""
).returning(Either(b"scheduled", b"waiting", b"retrying", b"running", b"", more))

_SCHEDULED = (int, list, bytes, bytes)
_IN_THE_STREAM = (int, an_id, [bytes], [(bytes, int, Either(PENDING, ()))])

# KEYS: stream, later, retried. ARGV: id, from where to look on (see more())
# Returns {1, headers, payload, id} of a scheduled message, else {0, id of its entry, fields,
# {group, has it read the entry (0, 1), line of XPENDING}...}; nil if there is none; or more().
STATE = Script(
    FIND
    + FIELDS
    + GROUPS
    + """
local id, behind = where(ARGV[1], KEYS[3], ARGV[2])
if not id then return behind or false end
if string.sub(id, 1, 1) == '@' then
  local _, member = find(KEYS[2], string.sub(id, 2))
  local parts, payload = fields(member)
  return {1, parts, payload, id}
end
local entry, found = redis.call('XRANGE', KEYS[1], id, id)[1], {}
each_group(id, function(group, line, has_read)
  if line or entry then found[#found + 1] = {group, has_read and 1 or 0, line or {}} end
end)
if not entry and #found == 0 then return false end
return {0, id, entry and entry[2] or {}, found}
"""
).returning(Either(None, _SCHEDULED, _IN_THE_STREAM, more))

ORDER = ("running", "retrying", "waiting", "done")


@dataclass
class GroupState:
    """The state of a message in one group.

    state: ``waiting``, ``running``, ``retrying`` or ``done``. holder: the consumer that holds it.
    idle_ms: time since the holder renewed it. delivery_count: how often it was delivered.
    retry_in_ms: time until its next delivery, None if it does not wait for one.
    """

    group: str
    state: str
    holder: str = ""
    idle_ms: int = 0
    delivery_count: int = 0
    retry_in_ms: int | None = None


@dataclass
class MessageState:
    """Where a message is.

    id: in the stream, or ``@<due ms>-<number>`` of a scheduled message. state: ``scheduled``,
    ``waiting``, ``running``, ``retrying``, ``done`` (still in the stream) or ``dead`` (only ``rsq
    show`` says that, which looks among the letters); where groups differ, the first of ``running``,
    ``retrying``, ``waiting`` that one of them has. data: the raw payload. headers: the texts beside
    it. due: when a scheduled message is due, else None. groups: its state in each group. letter: id
    of its dead letter, "" = none.
    """

    id: str
    state: str
    data: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    due: datetime | None = None
    groups: list[GroupState] = field(default_factory=list)
    letter: str = ""


async def cancel(link: Link, key: str, message_id: str) -> str:
    """Cancel a message; returns the state that it had, "" if there is none with this id any more.

    Raises ConfigError for an id of another form, and what Redis raises.
    """
    _check(message_id)
    beside = companions(key)
    keys = [beside.stream, beside.later, beside.bell, beside.retried, beside.cancelled]
    keys.append(beside.results)
    return text(await _answer(link, CANCEL, keys, message_id, CANCELLED))


async def find(link: Link, key: str, message_id: str) -> MessageState | None:
    """Where a message is; None if there is none with this id any more.

    Raises ConfigError for an id of another form, and what Redis raises.
    """
    _check(message_id)
    beside = companions(key)
    keys = [beside.stream, beside.later, beside.retried]
    reply = await _answer(link, STATE, keys, message_id)
    if not reply:
        return None
    if reply[0] == 1:
        parts = [text(part) for part in reply[1]]
        headers = dict(zip(parts[::2], parts[1::2], strict=False))
        due = as_datetime(due_ms(now_id := text(reply[3])))
        return MessageState(now_id, "scheduled", reply[2], headers, due)
    _, entry_id, fields, lines = reply
    groups = [_group_state(text(group), bool(read), line) for group, read, line in lines]
    message = entry_message([entry_id, fields], "data", 0)
    states = [group.state for group in groups] or ["waiting"]
    least = min(states, key=ORDER.index)
    return MessageState(message.id, least, message.data, message.headers, None, groups)


async def _answer(
    link: Link, script: Script, keys: list[str], message_id: str, *args: bytes
) -> Any:
    """What the script says in the end, however long after its time the message was moved."""
    reply: Any = b""
    while True:
        reply = await link.script(script, keys, message_id, reply, *args)
        if not more(reply):
            return reply


def _group_state(group: str, has_read: bool, line: list[Any]) -> GroupState:
    if not line:
        return GroupState(group, "done" if has_read else "waiting")
    holder, idle_ms, count = text(line[1]), int(line[2]), read_count(int(line[3]))[2]
    parked_ms = parking_due_ms(group, holder)
    if parked_ms is None:
        return GroupState(group, "running", holder, idle_ms, count)
    return GroupState(group, "retrying", holder, idle_ms, count, max(parked_ms - idle_ms, 0))


def _check(message_id: str) -> None:
    if not is_scheduled(message_id) and not is_entry_id(message_id):
        raise ConfigError(
            "expected the id of a message, as in '1767225660000-0', or of a scheduled one, as in "
            f"'@1767225660000-000000000042', got {message_id!r:.80}."
        )
