-- The database's clock.
-- Returns: now
SELECT clock_timestamp() AS now
