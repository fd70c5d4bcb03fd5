"""The tables of the first release, and the triggers that keep the counts.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

from jobserver.store.tables import Id, Instant

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WAITING_SQL = "status IN ('queued', 'scheduled', 'retrying')"
TERMINAL_SQL = "status IN ('completed', 'failed', 'canceled')"

# One trigger a statement: what it took from and added to each (queue, status).
POSTGRESQL_COUNTS = """
CREATE FUNCTION jobserver_count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count_deltas (queue, status, n)
    SELECT queue, status, count(*) FROM new_rows GROUP BY queue, status;
    RETURN NULL;
END $$;
CREATE FUNCTION jobserver_count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count_deltas (queue, status, n)
    SELECT queue, status, -count(*) FROM old_rows GROUP BY queue, status;
    RETURN NULL;
END $$;
CREATE FUNCTION jobserver_count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO job_count_deltas (queue, status, n)
    SELECT queue, status, sum(n) FROM (
        SELECT queue, status, -1 AS n FROM old_rows
        UNION ALL
        SELECT queue, status, 1 FROM new_rows
    ) AS moved GROUP BY queue, status HAVING sum(n) <> 0;
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_count_inserted AFTER INSERT ON jobs REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobserver_count_inserted();
CREATE TRIGGER jobs_count_deleted AFTER DELETE ON jobs REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobserver_count_deleted();
CREATE TRIGGER jobs_count_updated AFTER UPDATE ON jobs REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION jobserver_count_updated();
"""

# SQLite has one writer, so the sums are kept at once.
SQLITE_COUNTS = (
    """
CREATE TRIGGER jobs_count_inserted AFTER INSERT ON jobs BEGIN
    INSERT INTO job_counts (queue, status, n) VALUES (NEW.queue, NEW.status, 1)
        ON CONFLICT (queue, status) DO UPDATE SET n = n + 1;
END""",
    """
CREATE TRIGGER jobs_count_deleted AFTER DELETE ON jobs BEGIN
    UPDATE job_counts SET n = n - 1 WHERE queue = OLD.queue AND status = OLD.status;
END""",
    """
CREATE TRIGGER jobs_count_updated AFTER UPDATE OF status, queue ON jobs
    WHEN OLD.status <> NEW.status OR OLD.queue <> NEW.queue BEGIN
    UPDATE job_counts SET n = n - 1 WHERE queue = OLD.queue AND status = OLD.status;
    INSERT INTO job_counts (queue, status, n) VALUES (NEW.queue, NEW.status, 1)
        ON CONFLICT (queue, status) DO UPDATE SET n = n + 1;
END""",
)

_HOT = {
    "fillfactor": 80,
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_analyze_scale_factor": 0.02,
}


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", Id, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("retry_count", sa.Integer, nullable=False),
        sa.Column("max_retries", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("timeout_seconds", sa.Double, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
        sa.Column("due_at", Instant, nullable=False),
        sa.Column("available_at", Instant, nullable=False),
        sa.Column("started_at", Instant),
        sa.Column("finished_at", Instant),
        sa.Column("expires_at", Instant),
        sa.Column("lease_expires_at", Instant),
        sa.Column("worker_id", sa.Text),
        sa.Column("claim_token", Id),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("tags", sa.Text),
        sa.Column("callback_url", sa.Text),
        sa.Column("trace_context", sa.Text),
        sa.Column("progress", sa.Text),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        postgresql_with=_HOT,
    )
    _partial("jobs_waiting", "jobs", ["queue", "priority", "available_at"], WAITING_SQL)
    _partial("jobs_running", "jobs", ["worker_id"], "status = 'running'")
    _partial("jobs_terminal", "jobs", ["status", "finished_at", "id"], TERMINAL_SQL)
    _partial("jobs_expiring", "jobs", ["expires_at"], f"expires_at IS NOT NULL AND {WAITING_SQL}")

    op.create_table(
        "attempts",
        sa.Column("job_id", Id, primary_key=True),
        sa.Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("ended_at", Instant, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("worker_id", sa.Text),
    )

    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("expires_at", Instant, nullable=False),
    )
    op.create_index("idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_index("idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])

    op.create_table(
        "queues",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
    )

    op.create_table(
        "types",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("max_retries", sa.Integer, nullable=False),
        sa.Column("timeout_seconds", sa.Double, nullable=False),
        sa.Column("schema", sa.Text, nullable=False),
        sa.Column("updated_at", Instant, nullable=False),
    )

    op.create_table(
        "workers",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("started_at", Instant, nullable=False),
        sa.Column("heartbeat_at", Instant, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("stopped", sa.Boolean, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.Column("loop_lag_seconds", sa.Double, nullable=False),
        sa.Column("queues", sa.Text),
        sa.Column("types", sa.Text, nullable=False),
    )
    op.create_table(
        "job_counts",
        sa.Column("queue", sa.Text, primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger, nullable=False),
    )

    op.create_table(
        "job_count_deltas",
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
    )
    if op.get_bind().dialect.name == "postgresql":
        for statement in POSTGRESQL_COUNTS.split(";\nCREATE"):
            op.execute(statement if statement.lstrip().startswith("CREATE") else "CREATE" + statement)
    else:
        for statement in SQLITE_COUNTS:
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("The first migration has nothing to go back to: drop the database instead.")
