-- The newest failed jobs, for the feed of dead letters.
-- Takes: max_rows integer
-- Returns: id, fence, type
SELECT id, fence, type FROM jobs WHERE status = 'failed' ORDER BY finished_at DESC, id DESC LIMIT :max_rows
