-- Waiting jobs that become available within a window of time, in order, from a place on: many may share a moment.
-- Takes: queue text[], priority smallint[], after timestamptz, after_id uuid, until timestamptz, max_rows integer
-- Returns: id, fence, queue, priority, available_at
SELECT n.* FROM unnest(:queue, :priority) AS s(queue, priority) CROSS JOIN LATERAL (
    SELECT j.id, j.fence, j.queue, j.priority, j.available_at FROM jobs j
    WHERE j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority
        AND j.available_at >= :after AND j.available_at <= :until
        AND (j.available_at > :after OR j.id > :after_id)
    ORDER BY j.available_at, j.id LIMIT :max_rows
) AS n
ORDER BY n.available_at, n.id LIMIT :max_rows
