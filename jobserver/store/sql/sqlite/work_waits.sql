-- Watchdog: a job that a process could run, and that has been waiting for its message for a while.
-- Takes: queue text[], priority smallint[], types text[], for_seconds float8
-- Returns: id
SELECT o.id
FROM (SELECT value ->> 'queue' AS queue, value ->> 'priority' AS priority FROM json_each(:rows)) AS s
JOIN jobs o ON o.id IN (
    SELECT j.id FROM jobs j
    WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority
        AND j.available_at < :now - :for_seconds * 1000000
    -- Cheap, whatever else waits: a type that nobody here handles is handed on, and is among the oldest no more.
    ORDER BY j.available_at LIMIT 100
)
WHERE o.type IN (SELECT value FROM json_each(:types)) AND (o.expires_at IS NULL OR o.expires_at > :now)
LIMIT 1
