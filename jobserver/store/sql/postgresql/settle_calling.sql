-- What `settle` does, for a batch with jobs that want a callback: one that ended gets it in the same statement.
-- Takes: id uuid[], fence bigint[], status text[], ended text[], delay_seconds float8[], attempt_delta integer[], retry_delta integer[], crash_delta integer[], result text[], error text[], fingerprint text[], progress text[], lease_over boolean[], callback_retries integer
-- Returns: id, fence, status, queue, priority, type, due_at, ended, callback_id of the rows that were won
-- Include: settle
RETURNING
    j.id, j.fence, j.status, j.queue, j.priority, j.type, j.due_at, j.updated_at, j.started_at, j.worker_id,
    j.attempt - i.attempt_delta AS number, i.error AS attempt_error,
    CASE WHEN j.status = 'canceled' THEN 'canceled' ELSE i.ended END AS ended,
    j.attempt, j.retry_count, j.crashes, j.tags, j.created_at, j.result, j.error, j.callback_url, j.trace_context,
    :callback_retries AS callback_retries
),
history AS (
    INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, error, worker_id)
    SELECT id, fence - 1, number, started_at, updated_at, ended, attempt_error, worker_id FROM settled
),
-- Include: call_back
SELECT id, fence, status, queue, priority, type, due_at, ended, callback_id FROM told
