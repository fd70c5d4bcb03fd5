-- The failed jobs that a selection names, oldest failure first.
-- Takes: type text, queue text, ids uuid[], by_ids boolean, max_rows integer
-- Returns: id
SELECT j.id FROM jobs j
WHERE j.status = 'failed'
    AND (:type IS NULL OR j.type = :type)
    AND (:queue IS NULL OR j.queue = :queue)
    AND (NOT :by_ids OR j.id = ANY(:ids))
ORDER BY j.finished_at, j.id LIMIT :max_rows
