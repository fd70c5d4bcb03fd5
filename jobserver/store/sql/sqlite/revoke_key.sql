-- Revoke a key by its id or name. One that is revoked already keeps its time.
-- Takes: key text
-- Returns: id, name, scope
UPDATE api_keys SET revoked_at = :now
WHERE revoked_at IS NULL AND (name = :key OR id = :key)
RETURNING id, name, scope
