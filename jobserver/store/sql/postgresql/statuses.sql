-- The statuses of some jobs.
-- Takes: ids uuid[]
-- Returns: id, status
SELECT id, status FROM jobs WHERE id = ANY(:ids)
