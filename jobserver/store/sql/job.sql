-- One job.
-- Takes: id uuid
-- Returns: what a job shows. Named, since a column that a newer release adds must not be in the way
SELECT
    id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
    cancel_requested, created_at, updated_at, due_at, started_at, finished_at, expires_at, lease_expires_at,
    worker_id, idempotency_key, tags, callback_url, trace_context, progress, payload, result, error
FROM jobs WHERE id = :id
