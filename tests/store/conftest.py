"""A JobStore on a fresh database of each engine."""

from collections.abc import AsyncIterator

import pytest

from jobserver.store.engine import Database
from jobserver.store.jobs import JobStore
from jobserver.store.views import Views
from tests.conftest import Pair


@pytest.fixture
async def database(pair: Pair) -> AsyncIterator[Database]:
    database = Database(pair.database_url)
    yield database
    await database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def views(database: Database) -> Views:
    return Views(database)
