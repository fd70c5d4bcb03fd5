-- Note an admin action before it is done: none is done unnoted.
-- Takes: id uuid, key_id uuid, key_name text, address text, action text, target text
INSERT INTO audit (id, at, key_id, key_name, address, action, target)
VALUES (:id, :now, :key_id, :key_name, :address, :action, :target)
