-- Take idempotency keys, or learn whose they are. A key is free again once its time is over and its job is
-- terminal or gone. In the order of the keys, so that two batches cannot wait for each other.
-- Takes: scope text[], key text[], job_id uuid[], fingerprint text[], ttl_seconds float8
-- Returns: scope, key, job_id, fingerprint of the owner, who may be the asker
INSERT INTO idempotency_keys AS k (scope, key, job_id, fingerprint, expires_at)
SELECT i.scope, i.key, i.job_id, i.fingerprint, clock_timestamp() + make_interval(secs => :ttl_seconds)
FROM unnest(:scope, :key, :job_id, :fingerprint) AS i(scope, key, job_id, fingerprint)
ORDER BY i.scope, i.key
ON CONFLICT (scope, key) DO UPDATE SET (job_id, fingerprint, expires_at) = (
    SELECT owner.job_id, owner.fingerprint, owner.expires_at FROM (
        SELECT k.job_id, k.fingerprint, k.expires_at, 0 AS rank
        WHERE k.expires_at > clock_timestamp()
            OR EXISTS (SELECT FROM jobs j WHERE j.id = k.job_id AND j.status NOT IN ('completed', 'failed', 'canceled'))
        UNION ALL
        SELECT excluded.job_id, excluded.fingerprint, excluded.expires_at, 1
    ) AS owner ORDER BY owner.rank LIMIT 1
)
RETURNING k.scope, k.key, k.job_id, k.fingerprint
