-- Forget processes that have been dead for a day.
-- Takes: older_than_seconds float8
DELETE FROM workers WHERE heartbeat_at < :now - CAST(:older_than_seconds * 1000000 AS INTEGER)
