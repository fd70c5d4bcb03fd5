-- Give back the keys that a refused batch took in this transaction.
-- Takes: job_id uuid[]
DELETE FROM idempotency_keys WHERE job_id IN (SELECT value ->> 'job_id' FROM json_each(:rows))
