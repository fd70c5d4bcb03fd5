-- Extend the leases of jobs that this process holds.
-- Takes: id uuid[], fence bigint[], lease_seconds float8
-- Returns: id of the jobs that are still ours
UPDATE jobs SET lease_expires_at = :now + CAST(:lease_seconds * 1000000 AS INTEGER)
FROM (SELECT value ->> 'id' AS id, value ->> 'fence' AS fence FROM json_each(:rows)) AS i
WHERE jobs.id = i.id
    AND jobs.status = 'running'
    -- A fence that moved on refuses: somebody reclaimed the job.
    AND jobs.fence = i.fence
RETURNING id
