-- Fail waiting jobs whose time is over, whether or not anybody tried to claim them.
-- Takes: error text, fingerprint text, max_rows integer, callback_retries integer
-- Returns: id, fence, queue, priority, type, attempt, callback_id
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
settled AS (
UPDATE jobs AS j SET
    status = 'failed', fence = j.fence + 1, error = :error, fingerprint = :fingerprint,
    finished_at = (SELECT now FROM clock), updated_at = (SELECT now FROM clock)
-- A subselect is a condition of the index; the bare function, being volatile, is not.
-- ARRAY, not IN: it is evaluated once, so the LIMIT holds.
WHERE j.id = ANY (ARRAY(
        SELECT id FROM jobs
        WHERE status IN ('queued', 'scheduled', 'retrying') AND expires_at IS NOT NULL AND expires_at <= (SELECT clock_timestamp())
        ORDER BY expires_at LIMIT :max_rows FOR UPDATE SKIP LOCKED
    ))
    AND j.status IN ('queued', 'scheduled', 'retrying')
RETURNING
    j.id, j.fence, j.status, j.queue, j.priority, j.type, j.attempt, j.retry_count, j.crashes, j.tags, j.created_at,
    j.updated_at, j.result, j.error, j.callback_url, j.trace_context, :callback_retries AS callback_retries
),
-- Include: call_back
SELECT id, fence, queue, priority, type, attempt, callback_id FROM told
