-- Running jobs of other processes, for a process that knows that it is alone on this database.
-- Takes: worker_id text, max_rows integer
-- Returns: the columns of a claimed job, and worker_id
SELECT
    j.id, j.type, j.queue, j.priority, j.payload, j.tags, j.fence, j.attempt, j.retry_count, j.max_retries,
    j.crashes, j.timeout_seconds, j.created_at, j.due_at, j.started_at, j.trace_context, j.cancel_requested, j.callback_url, j.worker_id
FROM jobs j WHERE j.status = 'running' AND j.worker_id <> :worker_id
ORDER BY j.id LIMIT :max_rows
