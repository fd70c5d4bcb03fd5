-- Failed jobs that have no fingerprint yet: they failed under an older release.
-- Takes: max_rows integer
-- Returns: id, fence, error
SELECT id, fence, error FROM jobs WHERE status = 'failed' AND fingerprint IS NULL ORDER BY finished_at LIMIT :max_rows
