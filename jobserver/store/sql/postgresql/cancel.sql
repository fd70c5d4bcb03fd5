-- Cancel: a waiting job at once; a running one is asked to end.
-- Takes: ids uuid[], statuses text[], callback_retries integer
-- Returns: id, status, fence, queue, type, worker_id, attempt, trace_context of the jobs that this changed or that were asked before, callback_id
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
settled AS (
UPDATE jobs AS j SET
    cancel_requested = true,
    status = CASE WHEN j.status = 'running' THEN j.status ELSE 'canceled' END,
    fence = CASE WHEN j.status = 'running' THEN j.fence ELSE j.fence + 1 END,
    finished_at = CASE WHEN j.status = 'running' THEN NULL ELSE (SELECT now FROM clock) END,
    updated_at = (SELECT now FROM clock)
WHERE j.id = ANY(:ids) AND j.status IN ('queued', 'scheduled', 'retrying', 'running')
    AND j.status = ANY(:statuses)
RETURNING
    j.id, j.status, j.fence, j.queue, j.type, j.worker_id, j.attempt, j.retry_count, j.crashes, j.tags, j.created_at,
    j.updated_at, j.result, j.error, j.callback_url, j.trace_context, :callback_retries AS callback_retries
),
-- Include: call_back
SELECT id, status, fence, queue, type, worker_id, attempt, trace_context, callback_id FROM told
