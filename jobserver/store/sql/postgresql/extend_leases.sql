-- Extend the leases of jobs that this process holds.
-- Takes: id uuid[], fence bigint[], lease_seconds float8
-- Returns: id of the jobs that are still ours
WITH input AS (SELECT * FROM unnest(:id, :fence) AS i(id, fence)),
held AS (SELECT i.* FROM jobs j JOIN input i ON i.id = j.id ORDER BY j.id FOR UPDATE OF j)
UPDATE jobs AS j SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds)
FROM held AS i
WHERE j.id = i.id
    AND j.status = 'running'
    -- A fence that moved on refuses: somebody reclaimed the job.
    AND j.fence = i.fence
RETURNING j.id
