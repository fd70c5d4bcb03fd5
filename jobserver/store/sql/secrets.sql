-- Every secret of callbacks, newest first.
-- Returns: all columns of callback_secrets
SELECT id, secret, created_at, expires_at, revoked_at FROM callback_secrets ORDER BY created_at DESC, id LIMIT 1000
