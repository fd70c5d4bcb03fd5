-- Fail waiting jobs whose time is over, whether or not anybody tried to claim them.
-- Takes: error text, fingerprint text, max_rows integer
-- Returns: id, fence, queue, priority, type, attempt, callback_url
UPDATE jobs AS j SET
    status = 'failed', fence = j.fence + 1, error = :error, fingerprint = :fingerprint,
    finished_at = :now, updated_at = :now
WHERE j.id IN (
        SELECT id FROM jobs
        WHERE status IN ('queued', 'scheduled', 'retrying') AND expires_at IS NOT NULL AND expires_at <= :now
        ORDER BY expires_at LIMIT :max_rows
    )
    AND j.status IN ('queued', 'scheduled', 'retrying')
RETURNING id, fence, queue, priority, type, attempt, callback_url
