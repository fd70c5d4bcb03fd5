-- Store the fingerprints of failed jobs that have none. One that was replayed meanwhile is left alone.
-- Takes: id uuid[], fence bigint[], fingerprint text[]
-- Returns: id
UPDATE jobs AS j SET fingerprint = i.fingerprint
FROM unnest(:id, :fence, :fingerprint) AS i(id, fence, fingerprint)
WHERE j.id = i.id
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id.
    AND j.status || '' = 'failed' AND j.fence = i.fence AND j.fingerprint IS NULL
RETURNING j.id
