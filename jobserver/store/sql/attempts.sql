-- The history of one job, oldest first.
-- Takes: id uuid
-- Returns: all columns of attempts
SELECT * FROM attempts WHERE job_id = :id ORDER BY fence LIMIT 1000
