-- KEYS: incarnation
-- ARGV: the value to set where there is none
-- Returns: the value that is there, 1 if it is the one that was set now
local value = redis.call('GET', KEYS[1])
if value then return {value, 0} end
redis.call('SET', KEYS[1], ARGV[1])
return {ARGV[1], 1}
