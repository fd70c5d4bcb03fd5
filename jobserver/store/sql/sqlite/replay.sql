-- Replay: jobs that have failed or were canceled start over, as far as the caller means them: under this fence, if it names one. History and fence stay.
-- Takes: id uuid[], fence bigint[], statuses text[]
-- Returns: id, fence, queue, priority, type, due_at, trace_context of the jobs that are queued again
UPDATE jobs SET
    status = 'queued', fence = jobs.fence + 1, attempt = 0, retry_count = 0, crashes = 0,
    result = NULL, error = NULL, fingerprint = NULL, progress = NULL, cancel_requested = false, expires_at = NULL,
    started_at = NULL, finished_at = NULL, worker_id = NULL, lease_expires_at = NULL,
    due_at = :now, available_at = :now, updated_at = :now
FROM (SELECT value ->> 'id' AS id, value ->> 'fence' AS fence FROM json_each(:rows)) AS i
WHERE jobs.id = i.id AND jobs.fence = coalesce(i.fence, jobs.fence) AND jobs.status IN ('failed', 'canceled')
    AND jobs.status IN (SELECT value FROM json_each(:statuses))
RETURNING id, fence, queue, priority, type, due_at, trace_context
