-- Forget idempotency keys whose time is over and whose job is terminal or gone.
-- Takes: max_rows integer
-- Returns: job_id
DELETE FROM idempotency_keys AS k
WHERE (k.scope, k.key) IN (
        SELECT scope, key FROM idempotency_keys e
        WHERE e.expires_at < :now AND NOT EXISTS (
            SELECT 1 FROM jobs j WHERE j.id = e.job_id AND j.status NOT IN ('completed', 'failed', 'canceled')
        )
        ORDER BY e.expires_at LIMIT :max_rows
    )
    AND k.expires_at < :now
RETURNING job_id
