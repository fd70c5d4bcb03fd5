-- Store what running handlers last said of themselves.
-- Takes: id uuid[], fence bigint[], progress text[]
UPDATE jobs AS j SET progress = i.progress, updated_at = clock_timestamp()
FROM
    -- Rows are locked as they are updated, in the order of ids: two batches cannot wait for each other.
    (SELECT * FROM unnest(:id, :fence, :progress) AS p(id, fence, progress) ORDER BY id) AS i
WHERE j.id = i.id
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id, in order.
    AND j.status || '' = 'running' AND j.fence = i.fence
