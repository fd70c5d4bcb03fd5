-- The jobs that a claim with this token holds.
-- Takes: ids uuid[], token uuid
-- Returns: the columns of a claimed job
SELECT
    j.id, j.type, j.queue, j.priority, j.payload, j.tags, j.fence, j.attempt, j.retry_count, j.max_retries,
    j.crashes, j.timeout_seconds, j.created_at, j.due_at, j.started_at, j.trace_context, j.cancel_requested, j.callback_url
FROM jobs j WHERE j.id = ANY(:ids) AND j.status = 'running' AND j.claim_token = :token
