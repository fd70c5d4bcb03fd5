"""Failed jobs are found by what they have in common: an index that is built while all goes on.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NAME = "jobs_failed"
COLUMNS = ["fingerprint", "finished_at", "id", "type", "queue", "status"]
FAILED_SQL = "status = 'failed'"
# What a process left that ended while it built it.
LEFTOVER_SQL = "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('jobs_failed') AND NOT indisvalid"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(NAME, "jobs", COLUMNS, sqlite_where=sa.text(FAILED_SQL), if_not_exists=True)
        return
    with op.get_context().autocommit_block():
        # It waits for the transactions that are under way, as long as they take: nobody waits behind it.
        limit = op.get_bind().scalar(sa.text("SELECT current_setting('lock_timeout')"))
        op.execute("SET lock_timeout = 0")
        if op.get_bind().scalar(sa.text(LEFTOVER_SQL)):
            op.drop_index(NAME, "jobs", postgresql_concurrently=True)
        op.create_index(
            NAME,
            "jobs",
            COLUMNS,
            postgresql_where=sa.text(FAILED_SQL),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.execute(f"SET lock_timeout = '{limit}'")


def downgrade() -> None:
    op.drop_index(NAME, "jobs")
