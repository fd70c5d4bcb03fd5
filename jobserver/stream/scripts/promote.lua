-- KEYS: pairs of a delayed set and the job stream of its queue and priority
-- ARGV: now in microseconds, how many members at most
-- Returns: how many were promoted, and the time at which the next one is due ('' if there is none)
local now = ARGV[1]
local left = tonumber(ARGV[2])
local moved = 0
local earliest = nil
for pair = 1, #KEYS, 2 do
    if left > 0 then
        local due = redis.call('ZRANGEBYSCORE', KEYS[pair], '-inf', now, 'WITHSCORES', 'LIMIT', 0, left)
        local members = {}
        for each = 1, #due, 2 do members[#members + 1] = due[each] end
        -- Freed first: under a full memory the additions would fail, and after a free they are permitted.
        for from = 1, #members, 1000 do
            redis.call('ZREM', KEYS[pair], unpack(members, from, math.min(from + 999, #members)))
        end
        for each = 1, #due, 2 do
            redis.pcall('XADD', KEYS[pair + 1], '*', 'm', due[each] .. ':' .. string.format('%.0f', tonumber(due[each + 1])))
        end
        left = left - #members
        moved = moved + #members
    end
    local first = redis.call('ZRANGE', KEYS[pair], 0, 0, 'WITHSCORES')
    if first[2] then
        local score = tonumber(first[2])
        if earliest == nil or score < earliest then earliest = score end
    end
end
if earliest == nil then return {moved, ''} end
return {moved, string.format('%.0f', earliest)}
