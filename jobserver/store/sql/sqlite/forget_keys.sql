-- The idempotency keys of jobs that are gone.
-- Takes: ids uuid[]
DELETE FROM idempotency_keys AS j WHERE j.job_id IN (SELECT value FROM json_each(:ids))
