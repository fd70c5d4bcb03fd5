-- KEYS: the keys that the operations name by their number
-- ARGV: group, then operations, each with its own count of arguments:
--       ack   key count entry...           acknowledge and delete entries of a job stream
--       add   key message                  append a message to a job stream
--       delay key score member             put a member into a delayed set
--       dead  key maxlen id fence type     append to the capped feed of dead letters
--       event feed events marks sent number most count gap payload name
--                                          append a flush's transitions to the capped events
--       progress key maxlen payload        append what handlers say of themselves
-- Returns: how many additions failed, the first failure's text, and 1 where the transitions are among them
-- Frees come first in ARGV: under a full memory they succeed, and after them the server permits the additions of
-- the same call. Where nothing was freed additions fail, and reconcile mends them.
local group = ARGV[1]
local at = 2
local failed = 0
local why = ''
local untold = 0

local function refuse(reply)
    failed = failed + 1
    if failed == 1 then why = reply.err end
end

local function add(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then refuse(reply) end
end

-- The entry says how many events went before it. Trimmed by marks, a tenth at a time: entries differ in size, and it
-- is the events that are counted.
local function tell(feed, events, marks, sent, number, most, count, gap, payload, name)
    -- A call is repeated when its answer was lost: then its events are there already.
    if redis.call('GET', sent) == number then return end
    local total = redis.pcall('HINCRBY', feed, 'count', count)
    if type(total) == 'table' then
        untold = 1
        return refuse(total)
    end
    local before = total - count
    if before == 0 then redis.pcall('HSETNX', feed, 'feed', name) end
    local id = redis.pcall('XADD', events, '*', 'n', string.format('%.0f', before), 'g', gap, 'e', payload)
    if type(id) == 'table' and id.err then
        untold = 1
        return refuse(id)
    end
    redis.pcall('SET', sent, number, 'EX', 86400)
    local step = math.max(1, math.floor(most / 10))
    if math.floor(before / step) == math.floor(total / step) then return end
    redis.pcall('RPUSH', marks, string.format('%.0f', total) .. ':' .. id)
    local oldest = nil
    while true do
        local mark = redis.call('LINDEX', marks, 0)
        if not mark then break end
        local upto, entry = string.match(mark, '^(%d+):(.+)$')
        if total - tonumber(upto) < most then break end
        redis.call('LPOP', marks)
        oldest = entry
    end
    if oldest then redis.call('XTRIM', events, 'MINID', oldest) end
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
    elseif op == 'event' then
        tell(key, KEYS[tonumber(ARGV[at + 2])], KEYS[tonumber(ARGV[at + 3])], KEYS[tonumber(ARGV[at + 4])],
            ARGV[at + 5], tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]), ARGV[at + 8], ARGV[at + 9], ARGV[at + 10])
        at = at + 11
    elseif op == 'progress' then
        add('XADD', key, 'MAXLEN', '~', ARGV[at + 2], '*', 'e', ARGV[at + 3])
        at = at + 4
    else
        return redis.error_reply('unknown operation ' .. op)
    end
end
return {failed, why, untold}
