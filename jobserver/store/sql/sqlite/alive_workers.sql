-- How many processes are alive: a heartbeat within this many seconds, and not stopped.
-- Takes: within_seconds float8
-- Returns: n
SELECT count(*) AS n FROM workers
WHERE NOT stopped AND heartbeat_at > :now - CAST(:within_seconds * 1000000 AS INTEGER)
