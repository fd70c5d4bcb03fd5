-- Which of some jobs a command is about: those in one of these statuses, and of this type, queue and fingerprint if given.
-- Takes: ids uuid[], statuses text[], type text, queue text, fingerprint text, not_asked boolean, max_rows integer
-- Returns: id, fence, oldest end first
SELECT j.id, j.fence FROM jobs j
WHERE j.id IN (SELECT value FROM json_each(:ids))
    AND j.status IN (SELECT value FROM json_each(:statuses))
    AND (:type IS NULL OR j.type = :type)
    AND (:queue IS NULL OR j.queue = :queue)
    AND (:fingerprint IS NULL OR (j.status = 'failed' AND j.fingerprint = :fingerprint))
    AND NOT (:not_asked AND j.cancel_requested)
ORDER BY j.finished_at, j.id LIMIT :max_rows
