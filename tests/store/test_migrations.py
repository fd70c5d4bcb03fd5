"""Migrations make exactly the tables that the code declares, once, however many ask for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from jobserver.store import engine, migrations
from jobserver.store.engine import MIGRATION_LOCK, Database, migrate, schema_version
from jobserver.store.tables import metadata
from tests.clocks import judged_by_the_clock
from tests.conftest import Pair
from tests.engines import PostgresServer, eventually


def differences(connection: sa.Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    found: list[Any] = compare_metadata(context, metadata)
    return found


def indexes(connection: sa.Connection) -> dict[str, Any]:
    """What autogenerate does not compare: the conditions and columns of indexes."""
    inspector = sa.inspect(connection)
    return {
        index["name"] or "": (
            index["column_names"],
            str(index.get("dialect_options", {}).get(f"{connection.dialect.name}_where")),
        )
        for table in metadata.tables
        for index in inspector.get_indexes(table)
    }


async def test_migrations_make_the_tables_that_are_declared(pair: Pair) -> None:
    database = Database(pair.database_url)
    async with database._connection(database._writer) as connection:
        assert await connection.run_sync(differences) == []
        migrated = await connection.run_sync(indexes)
    await database.close()
    assert set(migrated) == {index.name for table in metadata.tables.values() for index in table.indexes}


async def test_indexes_are_those_that_are_declared(pair: Pair, postgres: PostgresServer, tmp_path: Path) -> None:
    """Created from the declaration in an empty database, they read the same."""
    empty = postgres.create_database() if pair.name == "postgresql" else f"sqlite:///{tmp_path / 'empty.db'}"
    found = []
    for url in (pair.database_url, empty):
        database = Database(url)
        async with database._connection(database._writer) as connection:
            if url == empty:
                await connection.run_sync(metadata.create_all)
            found.append(await connection.run_sync(indexes))
        await database.close()
    assert found[0] == found[1]
    assert len(found[0]) >= 6


def test_the_head_that_code_knows_is_that_of_the_scripts() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [migrations.HEAD]


async def test_migrating_twice_changes_nothing(pair: Pair) -> None:
    await migrate(pair.database_url)
    await migrate(pair.database_url)
    database = Database(pair.database_url)
    assert await schema_version(database) == migrations.HEAD
    await database.close()


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
async def test_processes_that_start_together_migrate_once(
    dialect: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.create_database() if dialect == "postgresql" else f"sqlite:///{tmp_path / 'jobs.db'}"
    script = "import asyncio, sys; from jobserver.store.engine import migrate; asyncio.run(migrate(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    await asyncio.gather(*(migrate(url) for _ in range(2)))
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    database = Database(url)
    assert await schema_version(database) == migrations.HEAD
    async with database._connection(database._writer) as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_a_migration_of_another_process_is_waited_for(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a statement may take: an index on a large table is not built in ten seconds."""
    url = postgres.create_database()
    monkeypatch.setattr(engine, "STATEMENT_SECONDS", 0.2)
    other = Database(url)
    async with other._connection(other._writer) as connection:
        await connection.execute(sa.text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
        migrating = asyncio.create_task(migrate(url))
        await asyncio.sleep(0.8)  # as long as the other's migration takes
        assert not migrating.done()
        await connection.execute(sa.text(f"SELECT pg_advisory_unlock({MIGRATION_LOCK})"))
        await connection.commit()
        async with asyncio.timeout(20):
            await migrating
    assert await schema_version(other) == migrations.HEAD
    await other.close()


async def test_a_migration_that_fails_is_done_again(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite nothing is left of it; on PostgreSQL those before it are."""
    create_index = op.create_index

    def fails(name: str, *values: Any, **named: Any) -> None:
        create_index(name, *values, **named)
        if name == "jobs_failed":
            raise RuntimeError("the last statement")

    for url in (postgres.create_database(), f"sqlite:///{tmp_path / 'jobs.db'}"):
        monkeypatch.setattr(op, "create_index", fails)
        with pytest.raises(RuntimeError):
            await migrate(url)
        database = Database(url)
        assert await schema_version(database) == (None if database.sqlite else "0005")
        monkeypatch.setattr(op, "create_index", create_index)
        await migrate(url)
        assert await schema_version(database) == migrations.HEAD
        async with database._connection(database._writer) as connection:
            assert await connection.run_sync(differences) == []
        await database.close()


# While an older release is at work.


async def at_revision(database: Database, revision: str) -> None:
    """Migrated by the release that had this revision."""

    def upgrade(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with database._writer.connect() as connection:
        await connection.run_sync(upgrade)


@judged_by_the_clock
@pytest.mark.parametrize("revision", ["0004", "0005"])
async def test_others_work_on_while_a_migration_waits_for_somebody(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """One long transaction that has written to the table must not bring everything to a stop."""
    monkeypatch.setattr(engine, "_LOCK_SECONDS", 1)
    url = postgres.create_database()
    database = Database(url)
    await at_revision(database, revision)
    touch = sa.text("DELETE FROM jobs")
    async with database._writer.connect() as other:
        await other.execute(touch)
        migrating = asyncio.create_task(migrate(url))

        async def waits() -> bool:
            found = await database.select(sa.select(sa.text("count(*) AS n FROM pg_locks WHERE NOT granted")))
            return bool(found[0]["n"])

        await eventually(waits)
        started = time.monotonic()
        async with database._reader.begin() as connection:
            await connection.execute(touch)
        assert time.monotonic() - started < 2
        assert not migrating.done()
        await other.rollback()
    async with asyncio.timeout(20):
        await migrating
    assert await schema_version(database) == migrations.HEAD
    async with database._connection(database._writer) as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_what_is_left_of_an_index_that_was_not_finished_is_replaced(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    database = Database(url)
    await at_revision(database, "0005")
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'jobs_failed'::regclass"
    name = url.rsplit("/", 1)[1]
    postgres.execute("CREATE INDEX jobs_failed ON jobs (id)", name)
    postgres.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_failed'::regclass", name)
    assert postgres.execute(valid, name).strip() == "f"
    await migrate(url)
    assert postgres.execute(valid, name).strip() == "t"
    async with database._connection(database._writer) as connection:
        assert await connection.run_sync(differences) == []
    await database.close()
