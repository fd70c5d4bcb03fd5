-- Every registered type.
-- Returns: all columns of types
SELECT * FROM types ORDER BY type LIMIT 10000
