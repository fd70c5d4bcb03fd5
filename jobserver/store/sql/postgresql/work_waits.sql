-- Watchdog: a job that a process could run, and that has been waiting for its message for a while.
-- Takes: queue text[], priority smallint[], types text[], for_seconds float8
-- Returns: id
SELECT o.id FROM unnest(:queue, :priority) AS s(queue, priority) CROSS JOIN LATERAL (
    SELECT j.id, j.type, j.expires_at FROM jobs j
    WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority
        AND j.available_at < (SELECT clock_timestamp() - make_interval(secs => :for_seconds))
    -- Cheap, whatever else waits: a type that nobody here handles is handed on, and is among the oldest no more.
    ORDER BY j.available_at LIMIT 100
) AS o
WHERE o.type = ANY(:types) AND (o.expires_at IS NULL OR o.expires_at > (SELECT clock_timestamp()))
LIMIT 1
