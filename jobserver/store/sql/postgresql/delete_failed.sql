-- Delete failed jobs for good. `forget_jobs` takes their history and keys in the same transaction.
-- Takes: ids uuid[]
-- Returns: id of the jobs that are gone
DELETE FROM jobs AS j WHERE j.id = ANY(:ids) AND j.status = 'failed'
RETURNING id
