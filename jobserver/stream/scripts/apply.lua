-- KEYS: the keys that the operations name by their number
-- ARGV: group, then operations, each with its own count of arguments:
--       ack   key count entry...           acknowledge and delete entries of a job stream
--       add   key message                  append a message to a job stream
--       delay key score member             put a member into a delayed set
--       dead  key maxlen id fence type     append to the capped feed of dead letters
-- Returns: how many additions failed, and the first failure's text
-- Frees come first in ARGV: under a full memory they succeed, and after them the server permits the additions of
-- the same call. Where nothing was freed additions fail, and reconcile mends them.
local group = ARGV[1]
local at = 2
local failed = 0
local why = ''

local function add(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
        failed = failed + 1
        if failed == 1 then why = reply.err end
    end
end

while at <= #ARGV do
    local op = ARGV[at]
    local key = KEYS[tonumber(ARGV[at + 1])]
    if op == 'ack' then
        local count = tonumber(ARGV[at + 2])
        -- unpack holds some 8,000 values: the caller sends at most 1,000 in one operation.
        redis.pcall('XACK', key, group, unpack(ARGV, at + 3, at + 2 + count))
        redis.pcall('XDEL', key, unpack(ARGV, at + 3, at + 2 + count))
        at = at + 3 + count
    elseif op == 'add' then
        add('XADD', key, '*', 'm', ARGV[at + 2])
        at = at + 3
    elseif op == 'delay' then
        add('ZADD', key, ARGV[at + 2], ARGV[at + 3])
        at = at + 4
    elseif op == 'dead' then
        add('XADD', key, 'MAXLEN', '~', ARGV[at + 2], '*', 'id', ARGV[at + 3], 'fence', ARGV[at + 4], 'type', ARGV[at + 5])
        at = at + 6
    else
        return redis.error_reply('unknown operation ' .. op)
    end
end
return {failed, why}
