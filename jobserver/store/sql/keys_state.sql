-- How many keys were ever made, and revoked: neither goes down, so equal numbers mean that nothing has changed.
-- Returns: made, revoked
SELECT count(*) AS made, count(revoked_at) AS revoked FROM api_keys
