-- The history of one job, oldest first.
-- Takes: id uuid
-- Returns: all columns of attempts
SELECT job_id, fence, number, started_at, ended_at, outcome, error, worker_id FROM attempts WHERE job_id = :id ORDER BY fence LIMIT 1000
