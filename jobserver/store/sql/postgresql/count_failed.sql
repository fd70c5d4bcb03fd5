-- How many failed jobs a selection names.
-- Takes: type text, queue text, ids uuid[], by_ids boolean
-- Returns: n
SELECT count(*) AS n FROM jobs j
WHERE j.status = 'failed'
    AND (:type IS NULL OR j.type = :type)
    AND (:queue IS NULL OR j.queue = :queue)
    AND (NOT :by_ids OR j.id = ANY(:ids))
