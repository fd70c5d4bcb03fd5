-- KEYS: job streams
-- ARGV: group, idle milliseconds, then the consumers that are alive
-- Returns: how many consumers were forgotten
-- Deleting a consumer drops its pending entries for good, so this looks and deletes in one step.
-- Entries whose consumer was deleted by others are pending with nobody and never acknowledged: they go too. Where
-- a job still needs such a message, reconcile sends it again.
local alive = {}
for each = 3, #ARGV do alive[ARGV[each]] = true end

local function named(flat)
    local fields = {}
    for each = 1, #flat, 2 do fields[flat[each]] = flat[each + 1] end
    return fields
end

-- What is older than all that is pending, and not newer than the last one delivered.
local function drop_lost(key, group)
    local first = redis.call('XPENDING', key, ARGV[1])[2]
    if not first then
        local milliseconds, sequence = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
        first = milliseconds .. '-' .. string.format('%.0f', sequence + 1)
    end
    redis.call('XTRIM', key, 'MINID', first)
end

local forgotten = 0
for _, key in ipairs(KEYS) do
    local groups = redis.pcall('XINFO', 'GROUPS', key)
    for _, flat in ipairs(groups.err == nil and groups or {}) do
        local group = named(flat)
        if group['name'] == ARGV[1] then
            for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', key, ARGV[1])) do
                local fields = named(info)
                if fields['pending'] == 0 and fields['idle'] > tonumber(ARGV[2]) and not alive[fields['name']] then
                    redis.call('XGROUP', 'DELCONSUMER', key, ARGV[1], fields['name'])
                    forgotten = forgotten + 1
                end
            end
            drop_lost(key, group)
        end
    end
end
return forgotten
