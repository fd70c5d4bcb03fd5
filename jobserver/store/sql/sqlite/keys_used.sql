-- Note that keys were used just now.
-- Takes: ids uuid[]
UPDATE api_keys SET last_used_at = :now WHERE id IN (SELECT value FROM json_each(:ids))
