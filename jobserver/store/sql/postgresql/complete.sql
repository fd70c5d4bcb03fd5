-- End attempts that returned, and write their history rows: what `settle` does for them, with less to say.
-- Takes: id uuid[], fence bigint[], result text[]
-- Returns: id, fence, queue, priority, type of the rows that were won
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
settled AS (
UPDATE jobs AS j SET
    -- Returned wins over a cancel that was requested meanwhile.
    status = 'completed',
    fence = j.fence + 1,
    result = i.result,
    lease_expires_at = NULL,
    updated_at = clock.now,
    finished_at = clock.now
FROM
    -- Rows are locked as they are updated, in the order of ids: two batches cannot wait for each other.
    (SELECT * FROM unnest(:id, :fence, :result) AS e(id, fence, result) ORDER BY id) AS i,
    clock
WHERE j.id = i.id
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id, in order.
    AND j.status || '' = 'running'
    -- A stale attempt matches no row: its lease was taken.
    AND j.fence = i.fence
RETURNING j.id, j.fence, j.queue, j.priority, j.type, j.updated_at, j.started_at, j.worker_id, j.attempt
),
history AS (
    INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, error, worker_id)
    SELECT id, fence - 1, attempt, started_at, updated_at, 'completed', NULL, worker_id FROM settled
)
SELECT id, fence, queue, priority, type FROM settled
