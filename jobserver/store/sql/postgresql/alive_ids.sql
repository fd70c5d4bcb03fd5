-- The processes that are alive: a heartbeat within this many seconds, and not stopped.
-- Takes: within_seconds float8
-- Returns: id
SELECT id FROM workers
WHERE NOT stopped AND heartbeat_at > clock_timestamp() - make_interval(secs => :within_seconds)
