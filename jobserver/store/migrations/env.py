"""Alembic's entry: runs on the connection that `store.engine.migrate` hands over."""

from alembic import context
from sqlalchemy.engine import Connection

from jobserver.store.tables import metadata

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
