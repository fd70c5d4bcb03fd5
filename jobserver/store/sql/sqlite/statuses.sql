-- The statuses of some jobs.
-- Takes: ids uuid[]
-- Returns: id, status
SELECT id, status FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))
