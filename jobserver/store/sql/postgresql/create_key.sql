-- Store a new key, unless one that is not revoked has its name, or any has its digest.
-- Takes: id uuid, name text, scope text, digest text, lifetime_seconds float8
-- Returns: created_at, expires_at
INSERT INTO api_keys (id, name, scope, digest, created_at, expires_at)
SELECT :id, :name, :scope, :digest, clock_timestamp(), clock_timestamp() + make_interval(secs => :lifetime_seconds)
ON CONFLICT DO NOTHING
RETURNING created_at, expires_at
