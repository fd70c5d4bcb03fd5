-- Types that were registered anew after a moment.
-- Takes: since timestamptz
-- Returns: all columns of types
SELECT type, queue, priority, max_retries, timeout_seconds, schema, updated_at FROM types WHERE updated_at > :since ORDER BY updated_at LIMIT 10000
