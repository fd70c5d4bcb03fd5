-- Take idempotency keys, or learn whose they are. A key is free again once its time is over and its job is
-- terminal or gone.
-- Takes: scope text[], key text[], job_id uuid[], fingerprint text[], ttl_seconds float8
-- Returns: scope, key, job_id, fingerprint of the owner, who may be the asker
INSERT INTO idempotency_keys AS k (scope, key, job_id, fingerprint, expires_at)
SELECT
    value ->> 'scope', value ->> 'key', value ->> 'job_id', value ->> 'fingerprint',
    :now + CAST(:ttl_seconds * 1000000 AS INTEGER)
FROM json_each(:rows)
WHERE true
ON CONFLICT (scope, key) DO UPDATE SET (job_id, fingerprint, expires_at) = (
    SELECT owner.job_id, owner.fingerprint, owner.expires_at FROM (
        SELECT k.job_id AS job_id, k.fingerprint AS fingerprint, k.expires_at AS expires_at, 0 AS rank
        WHERE k.expires_at > :now
            OR EXISTS (SELECT 1 FROM jobs j WHERE j.id = k.job_id AND j.status NOT IN ('completed', 'failed', 'canceled'))
        UNION ALL
        SELECT excluded.job_id, excluded.fingerprint, excluded.expires_at, 1
    ) AS owner ORDER BY owner.rank LIMIT 1
)
RETURNING scope, key, job_id, fingerprint
