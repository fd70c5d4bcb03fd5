-- Cancel: a waiting job at once; a running one is asked to end.
-- Takes: ids uuid[]
-- Returns: id, status, fence, queue, type, worker_id of the jobs that this changed or that were asked before
UPDATE jobs AS j SET
    cancel_requested = true,
    status = CASE WHEN j.status = 'running' THEN j.status ELSE 'canceled' END,
    fence = CASE WHEN j.status = 'running' THEN j.fence ELSE j.fence + 1 END,
    finished_at = CASE WHEN j.status = 'running' THEN NULL ELSE clock_timestamp() END,
    updated_at = clock_timestamp()
WHERE j.id = ANY(:ids) AND j.status IN ('queued', 'scheduled', 'retrying', 'running')
RETURNING id, status, fence, queue, type, worker_id
