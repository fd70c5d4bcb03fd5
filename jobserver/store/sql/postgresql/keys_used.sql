-- Note that keys were used just now. Another process may have noted a later use.
-- Takes: ids uuid[]
UPDATE api_keys SET last_used_at = clock_timestamp()
WHERE id IN (SELECT id FROM api_keys WHERE id = ANY(:ids) ORDER BY id FOR UPDATE)
