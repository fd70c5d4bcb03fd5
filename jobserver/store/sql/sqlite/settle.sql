-- End attempts: every transition out of running. `record_attempts` writes their history in the same transaction.
-- Takes: id uuid[], fence bigint[], status text[], ended text[], delay_seconds float8[], attempt_delta integer[], retry_delta integer[], crash_delta integer[], result text[], error text[], fingerprint text[], progress text[], lease_over boolean[]
-- Returns: id, fence, status, queue, priority, type, due_at, started_at, updated_at, worker_id, attempt of the rows won
UPDATE jobs SET
    status = CASE WHEN jobs.cancel_requested AND i.status <> 'completed' THEN 'canceled' ELSE i.status END,
    fence = jobs.fence + 1,
    attempt = jobs.attempt + i.attempt_delta,
    retry_count = jobs.retry_count + CASE WHEN jobs.cancel_requested THEN 0 ELSE i.retry_delta END,
    crashes = jobs.crashes + i.crash_delta,
    result = i.result,
    error = coalesce(i.error, jobs.error),
    fingerprint = CASE WHEN NOT jobs.cancel_requested THEN i.fingerprint END,
    progress = coalesce(i.progress, jobs.progress),
    lease_expires_at = NULL,
    updated_at = :now,
    -- A cancel that was requested in between makes any ending but completed a terminal one.
    finished_at = CASE
        WHEN jobs.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN :now
    END,
    due_at = CASE WHEN jobs.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN jobs.due_at ELSE :now + CAST(i.delay_seconds * 1000000 AS INTEGER) END,
    available_at = CASE WHEN jobs.cancel_requested OR i.status IN ('completed', 'failed', 'canceled') THEN jobs.due_at ELSE :now + CAST(i.delay_seconds * 1000000 AS INTEGER) END
FROM (
    SELECT
        value ->> 'id' AS id, value ->> 'fence' AS fence, value ->> 'status' AS status,
        value ->> 'delay_seconds' AS delay_seconds, value ->> 'attempt_delta' AS attempt_delta,
        value ->> 'retry_delta' AS retry_delta, value ->> 'crash_delta' AS crash_delta,
        value ->> 'result' AS result, value ->> 'error' AS error, value ->> 'fingerprint' AS fingerprint,
        value ->> 'progress' AS progress, value ->> 'lease_over' AS lease_over
    FROM json_each(:rows)
) AS i
WHERE jobs.id = i.id
    AND jobs.status = 'running'
    -- A stale attempt matches no row: its lease was taken.
    AND jobs.fence = i.fence
    AND (NOT i.lease_over OR jobs.lease_expires_at < :now)
RETURNING id, fence, status, queue, priority, type, due_at, started_at, updated_at, worker_id, attempt
