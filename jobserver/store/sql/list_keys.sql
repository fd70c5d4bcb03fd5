-- Every key there ever was, oldest first.
-- Returns: id, name, scope, created_at, expires_at, revoked_at, last_used_at
SELECT id, name, scope, created_at, expires_at, revoked_at, last_used_at FROM api_keys ORDER BY created_at, id
