-- Rotation: the secrets that sign now do so for a while, and then no more.
-- Takes: overlap_seconds float8
UPDATE callback_secrets SET expires_at = :now + CAST(:overlap_seconds * 1000000 AS INTEGER)
-- One that retires already does not sign longer for another rotation.
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now + CAST(:overlap_seconds * 1000000 AS INTEGER))
