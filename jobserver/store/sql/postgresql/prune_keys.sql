-- Forget idempotency keys whose time is over and whose job is terminal or gone.
-- Takes: max_rows integer
-- Returns: job_id
WITH old AS MATERIALIZED (
    SELECT scope, key FROM idempotency_keys e
    -- A subselect is a condition of the index; the bare function, being volatile, is not.
    WHERE e.expires_at < (SELECT clock_timestamp()) AND NOT EXISTS (
        SELECT 1 FROM jobs j WHERE j.id = e.job_id AND j.status NOT IN ('completed', 'failed', 'canceled')
    )
    ORDER BY e.expires_at LIMIT :max_rows FOR UPDATE SKIP LOCKED
)
DELETE FROM idempotency_keys AS k USING old
WHERE k.scope = old.scope AND k.key = old.key AND k.expires_at < clock_timestamp()
RETURNING k.job_id
