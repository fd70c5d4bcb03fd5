-- Whether an idempotency key has an owner, as take_keys would find.
-- Takes: scope text, key text
-- Returns: job_id, or no row
SELECT k.job_id
FROM idempotency_keys k
WHERE k.scope = :scope AND k.key = :key AND (
    k.expires_at > clock_timestamp()
    OR EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id AND j.status NOT IN ('completed', 'failed', 'canceled'))
)
