-- Forget old admin actions. Ids are UUIDv7: those of a time are below its first one.
-- Takes: before uuid, max_rows integer
-- Returns: id
DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE id < :before ORDER BY id LIMIT :max_rows)
RETURNING id
