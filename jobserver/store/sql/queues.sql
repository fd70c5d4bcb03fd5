-- Every queue and whether it is paused.
-- Returns: name, paused
SELECT name, paused FROM queues ORDER BY name LIMIT 10000
