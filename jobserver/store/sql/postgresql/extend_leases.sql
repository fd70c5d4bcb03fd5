-- Extend the leases of jobs that this process holds. Waits for nobody: a row that is being ended just now, perhaps by
-- an event loop that a handler blocks, must not cost the leases of the others.
-- Takes: id uuid[], fence bigint[], lease_seconds float8
-- Returns: id of the jobs that are still ours, extended or locked
WITH input AS (SELECT * FROM unnest(:id, :fence) AS i(id, fence)),
held AS (
    SELECT i.id, i.fence FROM jobs j JOIN input i ON i.id = j.id
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
),
extended AS (
    UPDATE jobs AS j SET lease_expires_at = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM held AS i
    WHERE j.id = i.id
        -- As an expression: no index of statuses may offer itself, for the plan has to go by id.
        AND j.status || '' = 'running'
        -- A fence that moved on: somebody reclaimed the job.
        AND j.fence = i.fence
)
SELECT j.id FROM jobs j JOIN input i ON i.id = j.id
-- A fence that moved on refuses.
WHERE j.status || '' = 'running' AND i.fence = j.fence
