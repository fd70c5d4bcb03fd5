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
),
submitted AS (
    SELECT i.id, i.payload, kinds.* FROM unnest(:id, :kind, :payload) AS i(id, kind, payload) JOIN kinds USING (kind)
)
-- Include: insert_jobs
