-- Store a new key, unless one that is not revoked has its name, or any has its digest.
-- Takes: id uuid, name text, scope text, digest text, lifetime_seconds float8
-- Returns: created_at, expires_at
INSERT INTO api_keys (id, name, scope, digest, created_at, expires_at)
VALUES (:id, :name, :scope, :digest, :now, :now + CAST(:lifetime_seconds * 1000000 AS INTEGER))
ON CONFLICT DO NOTHING
RETURNING created_at, expires_at
