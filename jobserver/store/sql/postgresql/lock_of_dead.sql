-- Take the lock of a process until the end of this transaction. The living hold theirs.
-- Takes: worker_id text
-- Returns: taken
SELECT pg_try_advisory_xact_lock(hashtext('workers'::regclass::oid::text), hashtext(:worker_id)) AS taken
