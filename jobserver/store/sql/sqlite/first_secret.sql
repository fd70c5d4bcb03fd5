-- The first secret, where there was never one: one that was revoked is not replaced behind anybody's back.
-- Takes: secret text
INSERT INTO callback_secrets (id, secret, created_at)
SELECT 'first', :secret, :now WHERE NOT EXISTS (SELECT 1 FROM callback_secrets)
ON CONFLICT (id) DO NOTHING
