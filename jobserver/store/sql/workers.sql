-- Every process of the last day, newest first.
-- Returns: all columns of workers
SELECT * FROM workers ORDER BY started_at DESC, id LIMIT 1000
