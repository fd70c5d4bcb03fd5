-- KEYS: job streams
-- ARGV: group
-- Returns: for each key the oldest message that was not delivered to the group yet, '' if there is none
local answer = {}
for number, key in ipairs(KEYS) do
    local from = '-'
    local groups = redis.pcall('XINFO', 'GROUPS', key)
    if groups.err == nil then
        for _, info in ipairs(groups) do
            local fields = {}
            for each = 1, #info, 2 do fields[info[each]] = info[each + 1] end
            if fields['name'] == ARGV[1] then from = '(' .. fields['last-delivered-id'] end
        end
        local first = redis.call('XRANGE', key, from, '+', 'COUNT', 1)
        if first[1] then answer[number] = first[1][2][2] else answer[number] = '' end
    else
        answer[number] = ''
    end
end
return answer
