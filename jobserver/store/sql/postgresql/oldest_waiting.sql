-- The age of the oldest due job of each stream: the one whose message comes first.
-- Takes: queue text[], priority smallint[]
-- Returns: queue, seconds
SELECT s.queue, extract(epoch FROM clock_timestamp() - o.due_at)::float8 AS seconds
FROM unnest(:queue, :priority) AS s(queue, priority) CROSS JOIN LATERAL (
    SELECT j.due_at FROM jobs j
    WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority
        -- A subselect is a condition of the index; the bare function, being volatile, is not.
        AND j.available_at <= (SELECT clock_timestamp())
    ORDER BY j.available_at LIMIT 1
) AS o
