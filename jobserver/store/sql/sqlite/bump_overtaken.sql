-- Reconcile: waiting jobs that younger messages of their stream have overtaken have lost theirs. Their
-- available_at moves to now, in its old order, so that each is found once.
-- Takes: queue text[], priority smallint[], before timestamptz[], max_rows integer
-- Returns: id, fence, queue, priority, available_at
UPDATE jobs SET available_at = :now + o.n
FROM (
    SELECT j.id, row_number() OVER (ORDER BY j.available_at, j.id) AS n
    FROM (
        SELECT value ->> 'queue' AS queue, value ->> 'priority' AS priority, value ->> 'before' AS before
        FROM json_each(:rows)
    ) AS s
    JOIN jobs j ON j.status IN ('queued', 'scheduled', 'retrying') AND j.queue = s.queue AND j.priority = s.priority AND j.available_at < s.before
    ORDER BY j.available_at, j.id LIMIT :max_rows
) AS o
WHERE jobs.id = o.id AND jobs.status IN ('queued', 'scheduled', 'retrying')
RETURNING id, fence, queue, priority, available_at
