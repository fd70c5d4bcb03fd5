-- Pause or resume a queue, which may be new.
-- Takes: name text, paused boolean
INSERT INTO queues (name, paused, created_at) VALUES (:name, :paused, :now)
ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
