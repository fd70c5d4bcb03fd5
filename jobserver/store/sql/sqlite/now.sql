-- The database's clock.
-- Returns: now
SELECT :now AS now
