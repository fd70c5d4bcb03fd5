-- Processes of the last day, newest first: all that are alive before any that is not.
-- Takes: alive_since timestamptz
-- Returns: all columns of workers
SELECT * FROM (
    SELECT * FROM workers
    -- Processes that end and are started again leave a row each, and would push out the old one that lives.
    ORDER BY (heartbeat_at > :alive_since AND NOT stopped) DESC, started_at DESC, id
    LIMIT 1000
) AS kept
ORDER BY started_at DESC, id
