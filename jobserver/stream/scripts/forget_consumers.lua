-- KEYS: job streams
-- ARGV: group, idle milliseconds, then the consumers that are alive
-- Returns: how many consumers were forgotten
-- Deleting a consumer drops its pending entries for good, so this looks and deletes in one step.
local alive = {}
for each = 3, #ARGV do alive[ARGV[each]] = true end
local forgotten = 0
for _, key in ipairs(KEYS) do
    local consumers = redis.pcall('XINFO', 'CONSUMERS', key, ARGV[1])
    if consumers.err == nil then
        for _, info in ipairs(consumers) do
            local fields = {}
            for each = 1, #info, 2 do fields[info[each]] = info[each + 1] end
            if fields['pending'] == 0 and fields['idle'] > tonumber(ARGV[2]) and not alive[fields['name']] then
                redis.call('XGROUP', 'DELCONSUMER', key, ARGV[1], fields['name'])
                forgotten = forgotten + 1
            end
        end
    end
end
return forgotten
