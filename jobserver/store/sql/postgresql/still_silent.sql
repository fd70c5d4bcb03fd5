-- Hold the row of a process that is silent, so that it cannot come back before this transaction has ended.
-- Takes: worker_id text, silent_seconds float8
-- Returns: id, if it is silent
SELECT w.id FROM workers w
WHERE w.id = :worker_id AND w.heartbeat_at < clock_timestamp() - make_interval(secs => :silent_seconds)
FOR UPDATE
