-- The secrets that sign callbacks now, newest first.
-- Takes: max_rows integer
-- Returns: secret
SELECT secret FROM callback_secrets
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY created_at DESC, id LIMIT :max_rows
