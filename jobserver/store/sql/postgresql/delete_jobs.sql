-- Delete terminal jobs for good, as far as the caller means them: under this fence, if it names one. `forget_attempts` and `forget_keys` take their history and keys in the same transaction.
-- Takes: id uuid[], fence bigint[], statuses text[]
-- Returns: id, type, queue, fence of the jobs that are gone
DELETE FROM jobs AS j USING unnest(:id, :fence) AS i(id, fence)
WHERE j.id = i.id AND j.fence = coalesce(i.fence, j.fence)
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id.
    AND j.status || '' IN ('completed', 'failed', 'canceled')
    AND j.status || '' = ANY(:statuses)
RETURNING j.id, j.type, j.queue, j.fence
