-- Running jobs of this process whose cancel was requested.
-- Takes: worker_id text
-- Returns: id, fence
SELECT id, fence FROM jobs WHERE status = 'running' AND worker_id = :worker_id AND cancel_requested
