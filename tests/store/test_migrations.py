"""Migrations make exactly the tables that the code declares, once, however many ask for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from jobserver.store import engine, migrations
from jobserver.store.engine import MIGRATION_LOCK, Database, migrate, schema_version
from jobserver.store.tables import metadata
from tests.conftest import Pair
from tests.engines import PostgresServer


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
        async with asyncio.timeout(20):
            await migrating
    assert await schema_version(other) == migrations.HEAD
    await other.close()


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = engine._upgrade

    def fails(connection: sa.Connection) -> None:
        upgrade(connection)
        raise RuntimeError("the last statement")

    for url in (postgres.create_database(), f"sqlite:///{tmp_path / 'jobs.db'}"):
        monkeypatch.setattr(engine, "_upgrade", fails)
        with pytest.raises(RuntimeError):
            await migrate(url)
        database = Database(url)
        assert await schema_version(database) is None
        monkeypatch.setattr(engine, "_upgrade", upgrade)
        await migrate(url)
        assert await schema_version(database) == migrations.HEAD
        await database.close()
