-- A process says that it is alive, and what it is; its connection holds the lock that proves it.
-- Takes: id text, host text, pid integer, version text, draining boolean, stopped boolean, concurrency integer, running integer, loop_lag_seconds float8, queues text, types text
-- Returns: now by the database's clock; locked: whether this session has the lock
INSERT INTO workers (
    id, host, pid, version, started_at, heartbeat_at, draining, stopped, concurrency, running, loop_lag_seconds,
    queues, types, locked
)
VALUES (
    :id, :host, :pid, :version, clock_timestamp(), clock_timestamp(), :draining, :stopped, :concurrency, :running, :loop_lag_seconds,
    :queues, :types,
    CASE
        WHEN :stopped THEN false
        -- Asked each time, so that the row tells the truth behind a proxy that changes sessions, too.
        WHEN EXISTS (
            SELECT FROM pg_locks AS l
            WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.objsubid = 2
                AND l.classid = hashtext('workers'::regclass::oid::text)::oid AND l.objid = hashtext(:id)::oid
        ) THEN true
        ELSE pg_try_advisory_lock(hashtext('workers'::regclass::oid::text), hashtext(:id))
    END
)
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = clock_timestamp(), draining = excluded.draining, stopped = excluded.stopped,
    running = excluded.running, loop_lag_seconds = excluded.loop_lag_seconds, locked = excluded.locked
RETURNING heartbeat_at AS now, locked
