-- One job.
-- Takes: id uuid
-- Returns: all columns of jobs
SELECT * FROM jobs WHERE id = :id
