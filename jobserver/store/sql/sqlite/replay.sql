-- Replay: failed (and canceled, where permitted) jobs start over. History and fence stay.
-- Takes: ids uuid[], failed_only boolean
-- Returns: id, fence, queue, priority, type, due_at of the jobs that are queued again
UPDATE jobs AS j SET
    status = 'queued', fence = j.fence + 1, attempt = 0, retry_count = 0, crashes = 0,
    result = NULL, error = NULL, progress = NULL, cancel_requested = false, expires_at = NULL,
    started_at = NULL, finished_at = NULL, worker_id = NULL, lease_expires_at = NULL,
    due_at = :now, available_at = :now, updated_at = :now
WHERE j.id IN (SELECT value FROM json_each(:ids)) AND (j.status = 'failed' OR (j.status = 'canceled' AND NOT :failed_only))
RETURNING id, fence, queue, priority, type, due_at
