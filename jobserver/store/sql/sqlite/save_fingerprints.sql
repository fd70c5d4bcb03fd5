-- Store the fingerprints of failed jobs that have none. One that was replayed meanwhile is left alone.
-- Takes: id uuid[], fence bigint[], fingerprint text[]
-- Returns: id
UPDATE jobs SET fingerprint = i.fingerprint
FROM (
    SELECT value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'fingerprint' AS fingerprint
    FROM json_each(:rows)
) AS i
WHERE jobs.id = i.id AND jobs.status = 'failed' AND jobs.fence = i.fence AND jobs.fingerprint IS NULL
RETURNING id
