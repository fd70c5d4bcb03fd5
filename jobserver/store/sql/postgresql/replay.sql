-- Replay: jobs that have failed or were canceled start over, as far as the caller means them: under this fence, if it names one. History and fence stay.
-- Takes: id uuid[], fence bigint[], statuses text[]
-- Returns: id, fence, queue, priority, type, due_at, trace_context of the jobs that are queued again
UPDATE jobs AS j SET
    status = 'queued', fence = j.fence + 1, attempt = 0, retry_count = 0, crashes = 0,
    result = NULL, error = NULL, fingerprint = NULL, progress = NULL, cancel_requested = false, expires_at = NULL,
    started_at = NULL, finished_at = NULL, worker_id = NULL, lease_expires_at = NULL,
    due_at = clock_timestamp(), available_at = clock_timestamp(), updated_at = clock_timestamp()
FROM unnest(:id, :fence) AS i(id, fence)
WHERE j.id = i.id AND j.fence = coalesce(i.fence, j.fence)
    -- As an expression: no index of statuses may offer itself, for the plan has to go by id.
    AND j.status || '' IN ('failed', 'canceled')
    AND j.status || '' = ANY(:statuses)
RETURNING j.id, j.fence, j.queue, j.priority, j.type, j.due_at, j.trace_context
