-- The rows of jobs whose insert was repeated or whose idempotency key was known.
-- Takes: ids uuid[]
-- Returns: all columns of jobs
SELECT * FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))
