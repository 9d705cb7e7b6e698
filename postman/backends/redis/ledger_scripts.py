"""What the ledger in Redis writes there, each in one go. What is decided is decided in Python.

Keys that are made of a letter's id, a client or a label are not declared, since only the letter tells which they are;
all begin with the same prefix in braces, so a cluster has them in one place.

A script that fails leaves what it did before. So indices, where somebody else may have written, come first, and what
makes a change true comes last and cannot fail; an index that names a letter too much is harmless.
"""

from __future__ import annotations

from typing import Final

from postman.backends.redis.client import Script
from postman.backends.redis.queue_scripts import ADDS, CONSUMES, PUT_NOTES

ACCEPT: Final = Script(
    ADDS
    + PUT_NOTES
    + """
-- KEYS: those of the queue; keys by client and key, the same by age, the index of what is queued.
-- ARGV: prefix, now, the field of the key or nothing, its value, its age, how many may be queued, until when by the
-- server's clock somebody waits for the answer, how many letters;
-- for each letter: id, row, body, labels, how many places, and for each the name and the score; then notes.
local time = redis.call('TIME')
if time[1] + time[2] / 1e6 > tonumber(ARGV[7]) then return {'late', time[1], time[2]} end
local prefix, field, letters = ARGV[1], ARGV[3], tonumber(ARGV[8])
if field ~= '' then
  local used = redis.call('HGET', KEYS[7], field)
  if used then return {'used', used} end
end
if redis.call('ZCARD', KEYS[9]) + letters > tonumber(ARGV[6]) then return {'full'} end
local first, at, seen = {}, 9, {}
for letter = 1, letters do
  local id = ARGV[at]
  if seen[id] or redis.call('EXISTS', prefix .. 'letter:' .. id) == 1 then return {'taken'} end
  seen[id], first[letter] = true, at
  at = at + 5 + 2 * ARGV[at + 4]
end
for _, i in ipairs(first) do
  for place = i + 5, i + 3 + 2 * ARGV[i + 4], 2 do
    redis.call('ZADD', prefix .. ARGV[place], ARGV[place + 1], ARGV[i])
  end
end
if field ~= '' then redis.call('ZADD', KEYS[8], ARGV[5], field) end
if at <= #ARGV then put_notes(clock(ARGV[2]), at) end
for _, i in ipairs(first) do
  redis.call('HSET', prefix .. 'letter:' .. ARGV[i], 'v', 1, 'r', ARGV[i + 1], 'b', ARGV[i + 2], 'l', ARGV[i + 3])
end
if field ~= '' then redis.call('HSET', KEYS[7], field, ARGV[4]) end
return {'accepted'}
"""
)

SWAP: Final = Script(
    CONSUMES
    + """
-- KEYS: the letter. ARGV: prefix, id, the version that was read, the row, 1 if the body goes, how many places it
-- leaves, their names, then name and score of those where it is now. Returns the new version; 0: somebody was faster.
local prefix, id = ARGV[1], ARGV[2]
if redis.pcall('HGET', KEYS[1], 'v') ~= ARGV[3] then return 0 end
local left = tonumber(ARGV[6])
for i = 7 + left, #ARGV, 2 do redis.call('ZADD', prefix .. ARGV[i], ARGV[i + 1], id) end
for i = 7, 6 + left do redis.call('ZREM', prefix .. ARGV[i], id) end
redis.call('HSET', KEYS[1], 'r', ARGV[4])
if ARGV[5] == '1' then redis.call('HDEL', KEYS[1], 'b') end
return redis.call('HINCRBY', KEYS[1], 'v', 1)
"""
)

FORGET: Final = Script(
    CONSUMES
    + """
-- KEYS: the letter. ARGV: prefix, id, the version that was read or nothing, names of all places. Returns whether it was
-- deleted. What somebody else wrote has no version, and a place where somebody else wrote is left as it is.
local version = redis.pcall('HGET', KEYS[1], 'v')
if (type(version) == 'string' and version or '') ~= ARGV[3] then return 0 end
for i = 4, #ARGV do redis.pcall('ZREM', ARGV[1] .. ARGV[i], ARGV[2]) end
return redis.call('DEL', KEYS[1])
"""
)

FORGET_KEYS: Final = Script(
    CONSUMES
    + """
-- KEYS: keys by client and key, the same by age. ARGV: how old, how many at most. Returns how many were deleted.
local fields = redis.call('ZRANGE', KEYS[2], '-inf', ARGV[1], 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, field in ipairs(fields) do
  redis.call('HDEL', KEYS[1], field)
  redis.call('ZREM', KEYS[2], field)
end
return #fields
"""
)

TAKE_KEYS: Final = Script(
    ADDS
    + """
-- KEYS: keys by client and key, the same by age. ARGV: for each key its field, value and age.
for i = 1, #ARGV, 3 do
  if redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1]) == 1 then
    redis.call('ZADD', KEYS[2], ARGV[i + 2], ARGV[i])
  end
end
return 'OK'
"""
)
