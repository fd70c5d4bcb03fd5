-- Where some jobs are, as events tell it.
-- Takes: ids uuid[]
-- Returns: id, type, queue, status, attempt, fence, updated_at
SELECT id, type, queue, status, attempt, fence, updated_at FROM jobs WHERE id = ANY(:ids)
