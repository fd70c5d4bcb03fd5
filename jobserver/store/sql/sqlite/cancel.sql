-- Cancel: a waiting job at once; a running one is asked to end.
-- Takes: ids uuid[], statuses text[]
-- Returns: id, status, fence, queue, type, worker_id, attempt, trace_context of the jobs that this changed or that were asked before, callback_url
UPDATE jobs AS j SET
    cancel_requested = true,
    status = CASE WHEN j.status = 'running' THEN j.status ELSE 'canceled' END,
    fence = CASE WHEN j.status = 'running' THEN j.fence ELSE j.fence + 1 END,
    finished_at = CASE WHEN j.status = 'running' THEN NULL ELSE :now END,
    updated_at = :now
WHERE j.id IN (SELECT value FROM json_each(:ids)) AND j.status IN ('queued', 'scheduled', 'retrying', 'running')
    AND j.status IN (SELECT value FROM json_each(:statuses))
RETURNING id, status, fence, queue, type, worker_id, attempt, trace_context, callback_url
