-- Give back the keys that a refused batch took in this transaction.
-- Takes: job_id uuid[]
DELETE FROM idempotency_keys WHERE job_id = ANY(:job_id)
