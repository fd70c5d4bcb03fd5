-- Reconcile: waiting jobs that younger messages of their stream have overtaken have lost theirs. Their
-- available_at moves to now, in its old order, so that each is found once.
-- Takes: queue text[], priority smallint[], before timestamptz[], max_rows integer
-- Returns: id, fence, queue, priority, available_at
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
streams AS (SELECT * FROM unnest(:queue, :priority, :before) AS s(queue, priority, before)),
overtaken AS (
    SELECT f.id, f.fence, row_number() OVER (ORDER BY f.available_at, f.id) AS n FROM (
    SELECT o.* FROM streams s CROSS JOIN LATERAL (
        SELECT j.id, j.fence, j.available_at FROM jobs j
        WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority
            AND j.available_at < s.before
        ORDER BY j.available_at LIMIT :max_rows
        FOR UPDATE SKIP LOCKED
    ) AS o
    -- Of all streams together: a call stays short however many queues there are.
    LIMIT :max_rows
    ) AS f
)
UPDATE jobs AS j SET available_at = clock.now + o.n * interval '1 microsecond'
FROM overtaken o, clock
WHERE j.id = o.id AND j.fence = o.fence AND j.status IN ('queued', 'scheduled', 'retrying')
RETURNING j.id, j.fence, j.queue, j.priority, j.available_at
