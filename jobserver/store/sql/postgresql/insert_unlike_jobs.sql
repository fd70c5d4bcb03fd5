-- Store accepted jobs that differ in more than id and payload, as jobs with keys do: insert_jobs would look for
-- the kind of each among all of them.
-- Takes: id uuid[], payload text[], type text[], queue text[], priority smallint[], max_retries integer[], timeout_seconds float8[], delay_seconds float8[], run_at timestamptz[], expires_at timestamptz[], idempotency_key text[], tags text[], callback_url text[], trace_context text[]
-- Returns: id, status, created_at, due_at of the rows that are new
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
submitted AS (
    SELECT i.*, greatest(coalesce(i.run_at, c.now + make_interval(secs => i.delay_seconds)), c.now) AS due_at, c.now
    FROM unnest(
        :id, :payload, :type, :queue, :priority, :max_retries, :timeout_seconds, :delay_seconds, :run_at, :expires_at,
        :idempotency_key, :tags, :callback_url, :trace_context
    ) AS i(
        id, payload, type, queue, priority, max_retries, timeout_seconds, delay_seconds, run_at, expires_at,
        idempotency_key, tags, callback_url, trace_context
    ), clock AS c
)
-- Include: insert_jobs
