-- The keys that were not revoked; which of them are over is for the reader's clock.
-- Returns: id, name, scope, digest, expires_at
SELECT id, name, scope, digest, expires_at FROM api_keys WHERE revoked_at IS NULL ORDER BY id LIMIT 10000
