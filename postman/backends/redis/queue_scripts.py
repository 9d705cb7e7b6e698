"""What the queue in Redis does there, each in one go. All scripts are given the same keys, see `keys_of`.

Those that consume are allowed to run when the server's memory is full; the one that adds is not.
"""

from __future__ import annotations

from typing import Final

from postman.backends.redis.client import Script

CONSUMES: Final = "#!lua flags=allow-oom\n"
ADDS: Final = "#!lua\n"


def keys_of(prefix: str) -> list[str]:
    """Lanes 0, 1, 2, leases, the last serial number, what is buried. The fifth names the channel of messages too."""
    return [f"{prefix}queue:{name}" for name in ("lane:0", "lane:1", "lane:2", "leased", "serial", "buried")]


LEASED: Final = 3
CHANNEL: Final = 4

CLOCK: Final = """
local function clock(given)  -- milliseconds; tests have a clock of their own
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function tell()  -- who may not publish is served all the same, a little later
  redis.pcall('PUBLISH', KEYS[5], '')
end
"""

PUT_NOTES: Final = (
    CLOCK
    + """
local function put_notes(now, first)  -- from ARGV[first] on: lane, delay, note
  local serial = redis.call('INCRBY', KEYS[5], (#ARGV - first + 1) / 3) - (#ARGV - first + 1) / 3
  for i = first, #ARGV, 3 do
    serial = serial + 1
    redis.call('ZADD', KEYS[ARGV[i] + 1], now + ARGV[i + 1], string.format('%016x', serial) .. ARGV[i + 2])
  end
  tell()
end
"""
)

PUT: Final = Script(ADDS + PUT_NOTES + "put_notes(clock(ARGV[1]), 2)")

_LEASES = (
    CLOCK
    + """
local function parts(lease)  -- serial number of the lease : lane : due : serial number of the note, note
  return string.match(lease, '^%x+:([012]):([^:]+):(.*)$')
end
local function show_again(now)  -- what was leased for too long, in its old place; what is no lease of ours goes
  for _, lease in ipairs(redis.call('ZRANGE', KEYS[4], '-inf', now, 'BYSCORE', 'LIMIT', 0, 1000)) do
    local lane, due, entry = parts(lease)
    redis.call('ZREM', KEYS[4], lease)
    if lane then redis.pcall('ZADD', KEYS[lane + 1], due, entry) end
  end
end
"""
)

TAKE: Final = Script(
    CONSUMES
    + _LEASES
    + """
-- ARGV: now, how many, milliseconds of a lease, credit of each lane, weight of each lane; where the letters are, or
-- nothing, and how long a body may be.
-- Smooth weighted round robin among the lanes that have a note. Returns leases, milliseconds until there may be more
-- (-1: nobody knows), the credits, and version, row and body of each letter that is no longer.
local now, count = clock(ARGV[1]), tonumber(ARGV[2])
show_again(now)
local credit, weight, found, at = {}, {}, {}, {1, 1, 1}
for lane = 1, 3 do
  credit[lane], weight[lane] = tonumber(ARGV[3 + lane]), tonumber(ARGV[6 + lane])
  found[lane] = redis.call('ZRANGE', KEYS[lane], '-inf', now, 'BYSCORE', 'LIMIT', 0, count, 'WITHSCORES')
end
local leases, gone, serial = {}, {{}, {}, {}}, nil
while #leases < count do
  local total, best = 0, nil
  for lane = 1, 3 do
    if found[lane][at[lane]] then
      credit[lane], total = credit[lane] + weight[lane], total + weight[lane]
      if not best or credit[lane] > credit[best] then best = lane end
    end
  end
  if not best then break end
  credit[best] = credit[best] - total
  local entry, due = found[best][at[best]], found[best][at[best] + 1]
  at[best] = at[best] + 2
  serial = serial or redis.call('INCRBY', KEYS[5], count) - count
  table.insert(leases, string.format('%016x:%d:%s:%s', serial + #leases + 1, best - 1, due, entry))
  table.insert(gone[best], entry)
end
for lane = 1, 3 do
  if #gone[lane] > 0 then redis.call('ZREM', KEYS[lane], unpack(gone[lane])) end
end
local ends = {}
for _, lease in ipairs(leases) do
  table.insert(ends, now + ARGV[3])
  table.insert(ends, lease)
end
if #ends > 0 then redis.call('ZADD', KEYS[4], unpack(ends)) end
local next = -1
for key = 1, 4 do
  local first = redis.call('ZRANGE', KEYS[key], 0, 0, 'WITHSCORES')
  if first[2] and (next < 0 or first[2] - now < next) then next = math.max(0, first[2] - now) end
end
local letters = {}
for number, lease in ipairs(ARGV[10] ~= '' and leases or {}) do
  local letter = ARGV[10] .. (string.match(lease, '"id":"(0x%x+)"') or '')
  local size = redis.pcall('HSTRLEN', letter, 'b')  -- somebody else may have written there
  local fits = type(size) == 'number' and size > 0 and size <= tonumber(ARGV[11])
  letters[number] = fits and redis.call('HMGET', letter, 'v', 'r', 'b') or {}
end
return {leases, next, credit, letters}
"""
)

RELEASE: Final = Script(
    CONSUMES
    + _LEASES
    + """
-- ARGV: now, the lease, milliseconds of delay; without one the note comes to its old place.
if not redis.call('ZSCORE', KEYS[4], ARGV[2]) then return 0 end
local lane, due, entry = parts(ARGV[2])
if ARGV[3] ~= '0' then due = clock(ARGV[1]) + ARGV[3] end
redis.call('ZADD', KEYS[lane + 1], due, entry)  -- this may fail, what follows cannot
redis.call('ZREM', KEYS[4], ARGV[2])
tell()
return 1
"""
)

BURY: Final = Script(
    CONSUMES
    + """
-- ARGV: the lease, when and why.
if not redis.call('ZSCORE', KEYS[4], ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[6], ARGV[2] .. ': ' .. ARGV[1])  -- this may fail, what follows cannot
return redis.call('ZREM', KEYS[4], ARGV[1])
"""
)

COUNT: Final = Script(
    CONSUMES
    + _LEASES
    + """
-- ARGV: now. Returns ready in each lane, delayed, leased, buried.
local now, counts, delayed = clock(ARGV[1]), {}, 0
show_again(now)
for lane = 1, 3 do
  counts[lane] = redis.call('ZCOUNT', KEYS[lane], '-inf', now)
  delayed = delayed + redis.call('ZCARD', KEYS[lane]) - counts[lane]
end
return {counts[1], counts[2], counts[3], delayed, redis.call('ZCARD', KEYS[4]), redis.call('LLEN', KEYS[6])}
"""
)
