-- Terminal jobs of one status that are older than their retention, oldest first, from a place on: many may share a moment.
-- Takes: status text, older_than_seconds float8, after timestamptz, after_id uuid, max_rows integer
-- Returns: id, finished_at
SELECT id, finished_at FROM jobs
WHERE status = :status AND status IN ('completed', 'failed', 'canceled')
    AND finished_at >= :after AND (finished_at > :after OR id > :after_id)
    AND finished_at < :now - CAST(:older_than_seconds * 1000000 AS INTEGER)
ORDER BY finished_at, id LIMIT :max_rows
