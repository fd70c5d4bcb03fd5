-- Note how many things an admin action has changed.
-- Takes: id uuid, changed bigint
UPDATE audit SET changed = :changed WHERE id = :id
