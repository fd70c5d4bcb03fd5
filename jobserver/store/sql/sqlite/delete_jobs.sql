-- Delete terminal jobs for good, as far as the caller means them: under this fence, if it names one. `forget_attempts` and `forget_keys` take their history and keys in the same transaction.
-- Takes: id uuid[], fence bigint[], statuses text[]
-- Returns: id, type, queue, fence of the jobs that are gone
DELETE FROM jobs AS j WHERE j.id IN (
    SELECT jobs.id FROM json_each(:rows) AS i CROSS JOIN jobs ON jobs.id = i.value ->> 'id'
    WHERE jobs.fence = coalesce(i.value ->> 'fence', jobs.fence)
) AND j.status IN ('completed', 'failed', 'canceled')
    AND j.status IN (SELECT value FROM json_each(:statuses))
RETURNING id, type, queue, fence
