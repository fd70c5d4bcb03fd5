-- KEYS: job streams, the first ones first
-- ARGV: group, consumer, count
-- Returns: {1 if a group had to be made, {key number, entries}...}, in all at most count entries
-- A stream without its group was wiped (or is new): the group starts at 0, so that nothing added since is skipped.
local group = ARGV[1]
local left = tonumber(ARGV[3])
local made = 0
local found = {}
for number, key in ipairs(KEYS) do
    if left <= 0 then break end
    local reply = redis.pcall('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', left, 'STREAMS', key, '>')
    if type(reply) == 'table' and reply.err then
        if not string.find(reply.err, 'NOGROUP', 1, true) then return reply end
        redis.call('XGROUP', 'CREATE', key, group, '0', 'MKSTREAM')
        made = 1
        reply = redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', left, 'STREAMS', key, '>')
    end
    if reply then
        local entries = reply[1][2]
        left = left - #entries
        found[#found + 1] = {number, entries}
    end
end
return {made, found}
