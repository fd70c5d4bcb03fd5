"""What callbacks are signed with.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

from jobserver.store.tables import Instant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "callback_secrets",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("created_at", Instant, nullable=False),
        sa.Column("expires_at", Instant),
        sa.Column("revoked_at", Instant),
    )


def downgrade() -> None:
    op.drop_table("callback_secrets")
