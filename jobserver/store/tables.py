"""The tables, once, for both dialects. Migrations are proven equal to this file by a test.

Times are `timestamptz` on PostgreSQL and integer microseconds since 1970 on SQLite. JSON that clients sent is
text, because jsonb reorders keys and refuses "\\u0000".
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

metadata: Final = sa.MetaData(
    naming_convention={"pk": "%(table_name)s_pkey", "ix": "%(table_name)s_%(column_0_N_name)s"}
)


class Id(TypeDecorator[Any]):
    """A UUID: native on PostgreSQL, its 36 characters on SQLite."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)


class Instant(TypeDecorator[Any]):
    """A moment: `timestamptz` on PostgreSQL, integer microseconds on SQLite (already converted by the caller)."""

    impl = sa.BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.TIMESTAMP(timezone=True))
        return dialect.type_descriptor(sa.BigInteger())


WAITING_SQL: Final = "status IN ('queued', 'scheduled', 'retrying')"
TERMINAL_SQL: Final = "status IN ('completed', 'failed', 'canceled')"

# Every claim and finish makes a new version of its row: leave room in the page, and vacuum early.
_HOT: Final = {
    "fillfactor": 80,
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_analyze_scale_factor": 0.02,
}


def _partial(name: str, *columns: str, where: str) -> sa.Index:
    return sa.Index(name, *columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


jobs: Final = sa.Table(
    "jobs",
    metadata,
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
    # When it may run: set by transitions; ages and waits are measured from it.
    sa.Column("due_at", Instant, nullable=False),
    # Copied into its message; starts equal to due_at, bumped when the message is found lost.
    sa.Column("available_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("lease_expires_at", Instant),
    sa.Column("worker_id", sa.Text),
    # Names the claim, so that a claim whose commit was not confirmed is recognised as ours.
    sa.Column("claim_token", Id),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("tags", sa.Text),
    sa.Column("callback_url", sa.Text),
    sa.Column("trace_context", sa.Text),
    sa.Column("progress", sa.Text),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    # What a failed job has in common with those that failed alike; null in every other status.
    sa.Column("fingerprint", sa.Text),
    _partial("jobs_waiting", "queue", "priority", "available_at", where=WAITING_SQL),
    _partial("jobs_running", "worker_id", where="status = 'running'"),
    _partial("jobs_terminal", "status", "finished_at", "id", where=TERMINAL_SQL),
    _partial("jobs_expiring", "expires_at", where=f"expires_at IS NOT NULL AND {WAITING_SQL}"),
    # The last three for the groups of dead letters, which are counted in the index alone.
    _partial("jobs_failed", "fingerprint", "finished_at", "id", "type", "queue", "status", where="status = 'failed'"),
    postgresql_with=_HOT,
)

attempts: Final = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", Id, primary_key=True),
    # The fence of the claim, which names the attempt.
    sa.Column("fence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("ended_at", Instant, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("worker_id", sa.Text),
)

idempotency_keys: Final = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("idempotency_keys_job_id", "job_id"),
    sa.Index("idempotency_keys_expires_at", "expires_at"),
)

queues: Final = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
)

types: Final = sa.Table(
    "types",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("max_retries", sa.Integer, nullable=False),
    sa.Column("timeout_seconds", sa.Double, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
)

workers: Final = sa.Table(
    "workers",
    metadata,
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
    # Whether it held, at its last heartbeat, the advisory lock that ends with its connection. PostgreSQL only.
    sa.Column("locked", sa.Boolean, nullable=False, server_default=sa.false()),
)

# What callbacks are signed with. `expires_at`: it was rotated, and signs until then; "" once it is revoked.
callback_secrets: Final = sa.Table(
    "callback_secrets",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
)

# Counts by queue and status: triggers on jobs add what a statement changed; no read ever scans jobs.
# On PostgreSQL they append to job_count_deltas (no row that two writers would queue for) and upkeep folds.
job_counts: Final = sa.Table(
    "job_counts",
    metadata,
    sa.Column("queue", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, primary_key=True),
    sa.Column("n", sa.BigInteger, nullable=False),
)

job_count_deltas: Final = sa.Table(
    "job_count_deltas",
    metadata,
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("n", sa.BigInteger, nullable=False),
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.0, "autovacuum_vacuum_threshold": 5000},
)

# Rows stay when a key is revoked: that there ever was one keeps the server closed.
api_keys: Final = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scope", sa.Text, nullable=False),
    # SHA-256 of the key, in hex.
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    sa.Column("last_used_at", Instant),
    sa.Index("api_keys_digest", "digest", unique=True),
    sa.Index(
        "api_keys_name",
        "name",
        unique=True,
        postgresql_where=sa.text("revoked_at IS NULL"),
        sqlite_where=sa.text("revoked_at IS NULL"),
    ),
)

# Ids are UUIDv7: their order is that of time.
audit: Final = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("key_id", Id),
    sa.Column("key_name", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    # How many it changed; written when it was done.
    sa.Column("changed", sa.BigInteger),
)
