-- Delete those of some jobs that are terminal, in one status, older than their retention, and of no key that is known.
-- Takes: ids uuid[], status text, older_than_seconds float8
-- Returns: id
DELETE FROM jobs AS j
WHERE j.id IN (SELECT value FROM json_each(:ids))
    AND j.status = :status AND j.status IN ('completed', 'failed', 'canceled')
    AND j.finished_at < :now - CAST(:older_than_seconds * 1000000 AS INTEGER)
    -- Or the repeat of a submit would make a second job.
    AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS k WHERE k.job_id = j.id AND k.expires_at > :now)
RETURNING id
