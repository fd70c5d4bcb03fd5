-- Every registered type.
-- Returns: all columns of types
SELECT type, queue, priority, max_retries, timeout_seconds, schema, updated_at FROM types ORDER BY type LIMIT 10000
