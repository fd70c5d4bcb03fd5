-- Claim delivered jobs: waiting, under the fence that the message names, due, not expired, queue not paused.
-- Takes: id uuid[], fence bigint[], worker_id text, token uuid, lease_seconds float8
-- Returns: the columns of a claimed job, for the rows that were won
UPDATE jobs SET
    status = 'running',
    fence = jobs.fence + 1,
    attempt = jobs.attempt + 1,
    started_at = :now,
    updated_at = :now,
    lease_expires_at = :now + CAST(:lease_seconds * 1000000 AS INTEGER),
    worker_id = :worker_id,
    claim_token = :token
FROM (SELECT value ->> 'id' AS id, value ->> 'fence' AS fence FROM json_each(:rows)) AS w
WHERE jobs.id = w.id
    AND jobs.status IN ('queued', 'scheduled', 'retrying')
    -- A stale message matches no row: the job has moved on since it was published.
    AND jobs.fence = w.fence
    AND jobs.due_at <= :now
    AND (jobs.expires_at IS NULL OR jobs.expires_at > :now)
    AND NOT EXISTS (SELECT 1 FROM queues q WHERE q.name = jobs.queue AND q.paused)
RETURNING
    id, type, queue, priority, payload, tags, fence, attempt, retry_count, max_retries,
    crashes, timeout_seconds, created_at, due_at, started_at, trace_context, cancel_requested, callback_url
