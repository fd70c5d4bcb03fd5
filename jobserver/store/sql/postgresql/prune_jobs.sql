-- Delete terminal jobs of one status that are older than their retention.
-- Takes: status text, older_than_seconds float8, max_rows integer
-- Returns: id
DELETE FROM jobs AS j
-- A subselect is a condition of the index; the bare function, being volatile, is not.
-- ARRAY, not IN: it is evaluated once, so the LIMIT holds.
WHERE j.id = ANY (ARRAY(
        SELECT id FROM jobs
        WHERE status = :status AND status IN ('completed', 'failed', 'canceled')
            AND finished_at < (SELECT clock_timestamp() - make_interval(secs => :older_than_seconds))
        ORDER BY finished_at LIMIT :max_rows FOR UPDATE SKIP LOCKED
    ))
    AND j.status = :status
RETURNING id
