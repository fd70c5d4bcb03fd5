-- A secret signs no more, and is no longer kept.
-- Takes: id text
-- Returns: id
UPDATE callback_secrets SET revoked_at = clock_timestamp(), secret = '' WHERE id = :id AND revoked_at IS NULL
RETURNING id
