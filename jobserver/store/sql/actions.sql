-- Admin actions before an id, newest first.
-- Takes: before uuid, max_rows integer
-- Returns: id, at, key_id, key_name, address, action, target, changed
SELECT id, at, key_id, key_name, address, action, target, changed
FROM audit WHERE id < :before ORDER BY id DESC LIMIT :max_rows
