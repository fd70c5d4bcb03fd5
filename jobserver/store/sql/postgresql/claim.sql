-- Claim delivered jobs: waiting, under the fence that the message names, due, not expired, queue not paused.
-- Takes: id uuid[], fence bigint[], worker_id text, token uuid, lease_seconds float8
-- Returns: the columns of a claimed job, for the rows that were won
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
UPDATE jobs AS j SET
    status = 'running',
    fence = j.fence + 1,
    attempt = j.attempt + 1,
    started_at = clock.now,
    updated_at = clock.now,
    lease_expires_at = clock.now + make_interval(secs => :lease_seconds),
    worker_id = :worker_id,
    claim_token = :token
FROM
    -- Rows are locked as they are updated, in the order of ids: two batches cannot wait for each other.
    (SELECT * FROM unnest(:id, :fence) AS w(id, fence) ORDER BY id) AS wanted,
    clock
WHERE j.id = wanted.id
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id, in order.
    AND j.status || '' IN ('queued', 'scheduled', 'retrying')
    -- A stale message matches no row: the job has moved on since it was published.
    AND j.fence = wanted.fence
    AND j.due_at <= clock.now
    AND (j.expires_at IS NULL OR j.expires_at > clock.now)
    AND NOT EXISTS (SELECT FROM queues q WHERE q.name = j.queue AND q.paused)
RETURNING
    j.id, j.type, j.queue, j.priority, j.payload, j.tags, j.fence, j.attempt, j.retry_count, j.max_retries,
    j.crashes, j.timeout_seconds, j.created_at, j.due_at, j.started_at, j.trace_context, j.cancel_requested, j.callback_url
