-- End attempts: every transition out of running, and its history row, in one statement.
-- Takes: id uuid[], fence bigint[], status text[], ended text[], delay_seconds float8[], attempt_delta integer[], retry_delta integer[], crash_delta integer[], result text[], error text[], fingerprint text[], progress text[], lease_over boolean[]
-- Returns: id, fence, status, queue, priority, type, due_at, ended of the rows that were won
-- Include: settle
RETURNING
    j.id, j.fence, j.status, j.queue, j.priority, j.type, j.due_at, j.updated_at, j.started_at, j.worker_id,
    j.attempt - i.attempt_delta AS number, i.error,
    CASE WHEN j.status = 'canceled' THEN 'canceled' ELSE i.ended END AS ended
),
history AS (
    INSERT INTO attempts (job_id, fence, number, started_at, ended_at, outcome, error, worker_id)
    SELECT id, fence - 1, number, started_at, updated_at, ended, error, worker_id FROM settled
)
SELECT id, fence, status, queue, priority, type, due_at, ended FROM settled
