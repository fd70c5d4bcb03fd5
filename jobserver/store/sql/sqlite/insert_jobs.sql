-- Store accepted jobs. One whose id is there already (a repeat after an unconfirmed commit) is left alone.
-- Takes: id uuid[], payload text[], type text[], queue text[], priority smallint[], max_retries integer[], timeout_seconds float8[], delay_seconds float8[], run_at timestamptz[], expires_at timestamptz[], idempotency_key text[], tags text[], callback_url text[], trace_context text[]
-- Returns: id, status, created_at, due_at of the rows that are new
INSERT INTO jobs (
    id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
    cancel_requested, created_at, updated_at, due_at, available_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, payload
)
SELECT
    id, type, queue, priority, CASE WHEN due_at > :now THEN 'scheduled' ELSE 'queued' END, 0, 0, 0, max_retries, 0,
    timeout_seconds, 0, :now, :now, due_at, due_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, payload
FROM (
    SELECT
        value ->> 'id' AS id, value ->> 'type' AS type, value ->> 'queue' AS queue,
        value ->> 'priority' AS priority, value ->> 'payload' AS payload, value ->> 'max_retries' AS max_retries,
        value ->> 'timeout_seconds' AS timeout_seconds, value ->> 'expires_at' AS expires_at,
        value ->> 'idempotency_key' AS idempotency_key, value ->> 'tags' AS tags,
        value ->> 'callback_url' AS callback_url, value ->> 'trace_context' AS trace_context,
        max(coalesce(value ->> 'run_at', :now + CAST((value ->> 'delay_seconds') * 1000000 AS INTEGER)), :now)
            AS due_at
    FROM json_each(:rows)
)
WHERE true
ON CONFLICT (id) DO NOTHING
RETURNING id, status, created_at, due_at
