-- Store what running handlers last said of themselves.
-- Takes: id uuid[], fence bigint[], progress text[]
WITH input AS (SELECT * FROM unnest(:id, :fence, :progress) AS i(id, fence, progress)),
held AS (SELECT i.* FROM jobs j JOIN input i ON i.id = j.id ORDER BY j.id FOR UPDATE OF j)
UPDATE jobs AS j SET progress = i.progress, updated_at = clock_timestamp()
FROM held AS i
WHERE j.id = i.id AND j.status = 'running' AND j.fence = i.fence
