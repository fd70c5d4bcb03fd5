-- Delete terminal jobs of one status that are older than their retention.
-- Takes: status text, older_than_seconds float8, max_rows integer
-- Returns: id
DELETE FROM jobs AS j
WHERE j.id IN (
        SELECT id FROM jobs
        WHERE status = :status AND status IN ('completed', 'failed', 'canceled')
            AND finished_at < :now - CAST(:older_than_seconds * 1000000 AS INTEGER)
        ORDER BY finished_at LIMIT :max_rows
    )
    AND j.status = :status
RETURNING id
