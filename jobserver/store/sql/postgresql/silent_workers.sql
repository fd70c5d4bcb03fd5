-- Processes that held their lock, were silent for a while, and have running jobs: they may be dead.
-- Takes: silent_seconds float8
-- Returns: id
SELECT w.id FROM workers w
WHERE w.locked AND w.heartbeat_at < clock_timestamp() - make_interval(secs => :silent_seconds)
    AND EXISTS (SELECT FROM jobs j WHERE j.status = 'running' AND j.worker_id = w.id)
ORDER BY w.id LIMIT 100
