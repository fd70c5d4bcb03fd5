-- The rows of jobs whose insert was repeated or whose idempotency key was known.
-- Takes: ids uuid[]
-- Returns: all columns of jobs
SELECT * FROM jobs WHERE id = ANY(:ids)
