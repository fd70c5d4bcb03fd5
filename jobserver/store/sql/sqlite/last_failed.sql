-- The last job of groups of failed ones.
-- Takes: fingerprint text[], type text[], finished_at timestamptz[]
-- Returns: fingerprint, type, id, error
SELECT w.fingerprint, w.type, j.id, j.error
FROM (
    SELECT value ->> 'fingerprint' AS fingerprint, value ->> 'type' AS type, value ->> 'finished_at' AS finished_at
    FROM json_each(:rows)
) AS w
JOIN jobs j ON j.id = (
    SELECT id FROM jobs
    WHERE status = 'failed' AND fingerprint = w.fingerprint AND type = w.type AND finished_at <= w.finished_at
    ORDER BY finished_at DESC, id DESC LIMIT 1
)
