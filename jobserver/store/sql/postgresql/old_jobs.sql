-- Terminal jobs of one status that are older than their retention, oldest first, from a place on: many may share a moment.
-- Takes: status text, older_than_seconds float8, after timestamptz, after_id uuid, max_rows integer
-- Returns: id, finished_at
SELECT id, finished_at FROM jobs
WHERE status = :status AND status IN ('completed', 'failed', 'canceled')
    AND finished_at >= :after AND (finished_at > :after OR id > :after_id)
    -- A subselect is a condition of the index; the bare function, being volatile, is not.
    AND finished_at < (SELECT clock_timestamp() - make_interval(secs => :older_than_seconds))
ORDER BY finished_at, id LIMIT :max_rows
