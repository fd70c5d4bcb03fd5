-- One more secret of callbacks.
-- Takes: id text, secret text
-- Returns: all columns of callback_secrets
INSERT INTO callback_secrets (id, secret, created_at) VALUES (:id, :secret, :now) RETURNING id, secret, created_at, expires_at, revoked_at
