-- Forget processes that have been dead for a day.
-- Takes: older_than_seconds float8
DELETE FROM workers WHERE heartbeat_at < clock_timestamp() - make_interval(secs => :older_than_seconds)
