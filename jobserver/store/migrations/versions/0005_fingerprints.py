"""Failed jobs say what they have in common with others.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The previous release does not name the column: what fails there, and what failed before, gets it by upkeep.
    op.add_column("jobs", sa.Column("fingerprint", sa.Text))


def downgrade() -> None:
    op.drop_column("jobs", "fingerprint")
