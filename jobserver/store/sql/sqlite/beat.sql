-- A process says that it is alive, and what it is.
-- Takes: id text, host text, pid integer, version text, draining boolean, stopped boolean, concurrency integer, running integer, loop_lag_seconds float8, queues text, types text
-- Returns: now by the database's clock; locked: never, because SQLite has one process
INSERT INTO workers (
    id, host, pid, version, started_at, heartbeat_at, draining, stopped, concurrency, running, loop_lag_seconds,
    queues, types, locked
)
VALUES (
    :id, :host, :pid, :version, :now, :now, :draining, :stopped, :concurrency, :running, :loop_lag_seconds,
    :queues, :types, 0
)
ON CONFLICT (id) DO UPDATE SET
    heartbeat_at = :now, draining = excluded.draining, stopped = excluded.stopped,
    running = excluded.running, loop_lag_seconds = excluded.loop_lag_seconds
RETURNING heartbeat_at AS now, locked
