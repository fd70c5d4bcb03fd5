-- The last job of groups of failed ones.
-- Takes: fingerprint text[], type text[], finished_at timestamptz[]
-- Returns: fingerprint, type, id, error
SELECT w.fingerprint, w.type, j.id, j.error
FROM unnest(:fingerprint, :type, :finished_at) AS w(fingerprint, type, finished_at)
CROSS JOIN LATERAL (
    SELECT id, error FROM jobs
    WHERE status = 'failed' AND fingerprint = w.fingerprint AND type = w.type AND finished_at <= w.finished_at
    ORDER BY finished_at DESC, id DESC LIMIT 1
) AS j
