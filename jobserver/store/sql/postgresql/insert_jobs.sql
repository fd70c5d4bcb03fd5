-- Store accepted jobs. One whose id is there already (a repeat after an unconfirmed commit) is left alone.
-- Takes: id uuid[], type text[], queue text[], priority smallint[], payload text[], max_retries integer[], timeout_seconds float8[], delay_seconds float8[], run_at timestamptz[], expires_at timestamptz[], idempotency_key text[], tags text[], callback_url text[], trace_context text[]
-- Returns: id, status, created_at, due_at of the rows that are new
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
input AS (
    SELECT i.*, greatest(coalesce(i.run_at, c.now + make_interval(secs => i.delay_seconds)), c.now) AS due_at, c.now
    FROM unnest(
        :id, :type, :queue, :priority, :payload, :max_retries, :timeout_seconds, :delay_seconds, :run_at,
        :expires_at, :idempotency_key, :tags, :callback_url, :trace_context
    ) AS i(
        id, type, queue, priority, payload, max_retries, timeout_seconds, delay_seconds, run_at,
        expires_at, idempotency_key, tags, callback_url, trace_context
    ), clock AS c
)
INSERT INTO jobs (
    id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
    cancel_requested, created_at, updated_at, due_at, available_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, payload
)
SELECT
    id, type, queue, priority, CASE WHEN due_at > now THEN 'scheduled' ELSE 'queued' END, 0, 0, 0, max_retries, 0,
    timeout_seconds, false, now, now, due_at, due_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, payload
FROM input
ON CONFLICT (id) DO NOTHING
RETURNING id, status, created_at, due_at
