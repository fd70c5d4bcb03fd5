-- Store accepted jobs. One whose id is there already (a repeat after an unconfirmed commit) is left alone.
-- Jobs that differ in nothing but id and payload, as most of a flush do, name one kind by its number from 1.
-- Takes: id uuid[], kind integer[], payload text[], type text[], queue text[], priority smallint[], max_retries integer[], timeout_seconds float8[], delay_seconds float8[], run_at timestamptz[], expires_at timestamptz[], idempotency_key text[], tags text[], callback_url text[], trace_context text[]
-- Returns: id, status, created_at, due_at of the rows that are new
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
kinds AS MATERIALIZED (
    SELECT k.*, greatest(coalesce(k.run_at, c.now + make_interval(secs => k.delay_seconds)), c.now) AS due_at, c.now
    FROM unnest(
        :type, :queue, :priority, :max_retries, :timeout_seconds, :delay_seconds, :run_at, :expires_at,
        :idempotency_key, :tags, :callback_url, :trace_context
    ) WITH ORDINALITY AS k(
        type, queue, priority, max_retries, timeout_seconds, delay_seconds, run_at, expires_at,
        idempotency_key, tags, callback_url, trace_context, kind
    ), clock AS c
)
INSERT INTO jobs (
    id, type, queue, priority, status, fence, attempt, retry_count, max_retries, crashes, timeout_seconds,
    cancel_requested, created_at, updated_at, due_at, available_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, payload
)
SELECT
    i.id, type, queue, priority, CASE WHEN due_at > now THEN 'scheduled' ELSE 'queued' END, 0, 0, 0, max_retries, 0,
    timeout_seconds, false, now, now, due_at, due_at, expires_at, idempotency_key, tags,
    callback_url, trace_context, i.payload
FROM unnest(:id, :kind, :payload) AS i(id, kind, payload) JOIN kinds USING (kind)
ON CONFLICT (id) DO NOTHING
RETURNING id, status, created_at, due_at
