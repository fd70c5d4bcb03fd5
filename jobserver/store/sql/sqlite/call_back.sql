-- The callbacks of jobs that ended just now, in the transaction that ended them: jobs of their own.
-- Takes: callback_id uuid[], id uuid[], fence bigint[], callback_retries integer
INSERT INTO jobs (
    id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
    cancel_requested, created_at, updated_at, due_at, available_at, trace_context, payload
)
SELECT
    w.callback_id, 'callback', 'callbacks', 1, 'queued', 0, 0, 0, :callback_retries, 0, 60, 0,
    t.updated_at, t.updated_at, t.updated_at, t.updated_at, t.trace_context,
    '{"url": ' || json_quote(t.callback_url)
    || ', "event": {"specversion": "1.0", "id": "' || t.id || ':' || t.fence
    || '", "source": "/jobs", "type": "jobserver.job.' || t.status || '", "subject": "' || t.id
    || '", "time": "' || strftime('%Y-%m-%dT%H:%M:%S', t.updated_at / 1000000, 'unixepoch')
    || printf('.%06dZ', t.updated_at % 1000000)
    || '", "datacontenttype": "application/json", "data": {"id": "' || t.id
    || '", "type": ' || json_quote(t.type) || ', "queue": ' || json_quote(t.queue) || ', "status": "' || t.status
    || '", "attempt": ' || t.attempt || ', "retry_count": ' || t.retry_count || ', "crashes": ' || t.crashes
    || ', "fence": ' || t.fence || ', "tags": ' || coalesce(t.tags, '[]')
    || ', "created_at": "' || strftime('%Y-%m-%dT%H:%M:%S', t.created_at / 1000000, 'unixepoch')
    || printf('.%06dZ', t.created_at % 1000000)
    || '", "finished_at": "' || strftime('%Y-%m-%dT%H:%M:%S', t.updated_at / 1000000, 'unixepoch')
    || printf('.%06dZ', t.updated_at % 1000000)
    || '", "result": ' || coalesce(t.result, 'null')
    -- Without its traceback, which is not for everybody.
    || ', "error": ' || coalesce(json_remove(t.error, '$.traceback'), 'null') || '}}}'
FROM (
    SELECT value ->> 'callback_id' AS callback_id, value ->> 'id' AS id, value ->> 'fence' AS fence
    FROM json_each(:rows)
) AS w
-- What waits again tells nothing.
JOIN jobs t ON t.id = w.id AND t.fence = w.fence AND t.status IN ('completed', 'failed', 'canceled')
WHERE t.callback_url IS NOT NULL
