-- KEYS: pairs of a job stream and its delayed set
-- ARGV: group
-- Returns: entries in streams, entries pending, members of delayed sets
local entries, pending, delayed = 0, 0, 0
for pair = 1, #KEYS, 2 do
    entries = entries + redis.call('XLEN', KEYS[pair])
    local groups = redis.pcall('XINFO', 'GROUPS', KEYS[pair])
    if groups.err == nil then
        for _, info in ipairs(groups) do
            for each = 1, #info, 2 do
                if info[each] == 'pending' then pending = pending + info[each + 1] end
            end
        end
    end
    delayed = delayed + redis.call('ZCARD', KEYS[pair + 1])
end
return {entries, pending, delayed}
