-- End attempts: every transition out of running, and its history row, in one statement.
-- Takes: id uuid[], fence bigint[], status text[], ended text[], delay_seconds float8[], attempt_delta integer[], retry_delta integer[], crash_delta integer[], result text[], error text[], progress text[], lease_over boolean[]
-- Returns: id, fence, status, queue, priority, type, due_at, ended of the rows that were won
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
input AS (
    SELECT * FROM unnest(
        :id, :fence, :status, :ended, :delay_seconds, :attempt_delta, :retry_delta, :crash_delta, :result, :error,
        :progress, :lease_over
    ) AS i(
        id, fence, status, ended, delay_seconds, attempt_delta, retry_delta, crash_delta, result, error,
        progress, lease_over
    )
),
held AS (
    -- Locked in the order of ids: two batches cannot wait for each other.
    SELECT i.* FROM jobs j JOIN input i ON i.id = j.id ORDER BY j.id FOR UPDATE OF j
),
settled AS (
UPDATE jobs AS j SET
    status = CASE WHEN j.cancel_requested AND i.status <> 'completed' THEN 'canceled' ELSE i.status END,
    fence = j.fence + 1,
    attempt = j.attempt + i.attempt_delta,
    retry_count = j.retry_count + CASE WHEN j.cancel_requested THEN 0 ELSE i.retry_delta END,
    crashes = j.crashes + i.crash_delta,
    result = i.result,
    error = coalesce(i.error, j.error),
    progress = coalesce(i.progress, j.progress),
    lease_expires_at = NULL,
    updated_at = clock.now,
    -- A cancel that was requested in between makes any ending but completed a terminal one.
    finished_at = CASE
        WHEN j.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN clock.now
    END,
    due_at = CASE WHEN j.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN j.due_at ELSE clock.now + make_interval(secs => i.delay_seconds) END,
    available_at = CASE WHEN j.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN j.due_at ELSE clock.now + make_interval(secs => i.delay_seconds) END
FROM held AS i, clock
WHERE j.id = i.id
    AND j.status = 'running'
    -- A stale attempt matches no row: its lease was taken.
    AND j.fence = i.fence
    AND (NOT i.lease_over OR j.lease_expires_at < clock.now)
RETURNING
    j.id, j.fence, j.status, j.queue, j.priority, j.type, j.due_at, j.updated_at, j.started_at, j.worker_id,
    j.attempt - i.attempt_delta AS number, i.error,
    CASE WHEN j.status = 'canceled' THEN 'canceled' ELSE i.ended END AS ended
),
history AS (
    INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, error, worker_id)
    SELECT id, fence - 1, number, started_at, updated_at, ended, error, worker_id FROM settled
)
SELECT id, fence, status, queue, priority, type, due_at, ended FROM settled
