-- The age of the oldest due job of each stream: the one whose message comes first.
-- Takes: queue text[], priority smallint[]
-- Returns: queue, seconds
SELECT queue, (:now - due_at) / 1000000.0 AS seconds FROM (
    SELECT
        s.queue,
        (
            SELECT j.due_at FROM jobs j
            WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority AND j.available_at <= :now
            ORDER BY j.available_at LIMIT 1
        ) AS due_at
    FROM (SELECT value ->> 'queue' AS queue, value ->> 'priority' AS priority FROM json_each(:rows)) AS s
)
WHERE due_at IS NOT NULL
