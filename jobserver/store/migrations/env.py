"""Alembic's entry: runs on the connection that `store.engine.migrate` hands over.

Each migration is a transaction, unless the connection is in one: a lock on a table is held no longer than it must be.
"""

from alembic import context
from sqlalchemy.engine import Connection

from jobserver.store.tables import metadata

connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=metadata, transactional_ddl=True, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
