-- A worker says which type it handles; the newest registration holds.
-- Takes: type text, queue text, priority smallint, max_retries integer, timeout_seconds float8, schema text
INSERT INTO types (type, queue, priority, max_retries, timeout_seconds, schema, updated_at)
VALUES (:type, :queue, :priority, :max_retries, :timeout_seconds, :schema, :now)
ON CONFLICT (type) DO UPDATE SET
    queue = excluded.queue, priority = excluded.priority, max_retries = excluded.max_retries,
    timeout_seconds = excluded.timeout_seconds, schema = excluded.schema, updated_at = excluded.updated_at
