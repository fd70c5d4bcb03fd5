-- A queue exists from its first mention on.
-- Takes: name text
INSERT INTO queues (name, paused, created_at) VALUES (:name, false, :now) ON CONFLICT (name) DO NOTHING
