-- The key with this digest, whether it is in use or not.
-- Takes: digest text
-- Returns: name, scope, revoked, expired
SELECT name, scope, revoked_at IS NOT NULL AS revoked, COALESCE(expires_at <= :now, false) AS expired
FROM api_keys WHERE digest = :digest
