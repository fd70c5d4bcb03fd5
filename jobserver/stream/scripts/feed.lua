-- KEYS: feed, events
-- ARGV: the name of the feed, where it has none
-- Returns: its name, how many events there have been, the id of the last entry
redis.call('HSETNX', KEYS[1], 'feed', ARGV[1])
local last = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[2])
    for each = 1, #info, 2 do
        if info[each] == 'last-generated-id' then last = info[each + 1] end
    end
end
return {redis.call('HGET', KEYS[1], 'feed'), redis.call('HGET', KEYS[1], 'count') or '0', last}
