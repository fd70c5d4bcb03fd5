-- Store what running handlers last said of themselves.
-- Takes: id uuid[], fence bigint[], progress text[]
UPDATE jobs SET progress = i.progress, updated_at = :now
FROM (
    SELECT value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'progress' AS progress FROM json_each(:rows)
) AS i
WHERE jobs.id = i.id AND jobs.status = 'running' AND jobs.fence = i.fence
