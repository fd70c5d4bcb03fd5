-- Fail waiting jobs whose time is over, whether or not anybody tried to claim them.
-- Takes: error text, max_rows integer
-- Returns: id, fence, queue, priority, type
UPDATE jobs AS j SET
    status = 'failed', fence = j.fence + 1, error = :error, finished_at = clock_timestamp(), updated_at = clock_timestamp()
-- A subselect is a condition of the index; the bare function, being volatile, is not.
-- ARRAY, not IN: it is evaluated once, so the LIMIT holds.
WHERE j.id = ANY (ARRAY(
        SELECT id FROM jobs
        WHERE status IN ('queued', 'scheduled', 'retrying') AND expires_at IS NOT NULL AND expires_at <= (SELECT clock_timestamp())
        ORDER BY expires_at LIMIT :max_rows FOR UPDATE SKIP LOCKED
    ))
    AND j.status IN ('queued', 'scheduled', 'retrying')
RETURNING id, fence, queue, priority, type
