"""The clients of the engines with a span a call: used in place of the plain ones where traces are on.

Only calls below a request or a batch are told; what upkeep asks for by itself belongs to nobody's trace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from jobserver.store.engine import Columns, Database, Row, Session
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import Batch, JobStream, Refusal
from jobserver.telemetry.tracing import Tracing


class TracedDatabase(Database):
    """Tells each statement by its name, never by its text or what it takes."""

    def __init__(self, url: str, *, pool_size: int, tracing: Tracing) -> None:
        super().__init__(url, pool_size=pool_size)
        self._tracing = tracing

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        answer = super().fetch(statement, columns, **scalars)
        # On SQLite it goes through a session, which tells it.
        return await (answer if self.sqlite else self._tracing.call(self.dialect, statement, answer))

    @asynccontextmanager
    async def _session(self, engine: Any, limit_seconds: float | None = None) -> AsyncIterator[tuple[Session, Any]]:
        async with super()._session(engine, limit_seconds) as (session, driver):
            yield _TracedSession(session, self.dialect, self._tracing), driver


class _TracedSession:
    def __init__(self, session: Session, dialect: str, tracing: Tracing) -> None:
        self._session = session
        self._dialect = dialect
        self._tracing = tracing

    async def fetch(self, statement: str, columns: Columns | None = None, /, **scalars: Any) -> Sequence[Row]:
        answer = self._session.fetch(statement, columns, **scalars)
        return await self._tracing.call(self._dialect, statement, answer)


class TracedClient(StreamClient):
    """Tells each script by its name."""

    def __init__(self, url: str, *, tracing: Tracing) -> None:
        super().__init__(url)
        self._tracing = tracing

    async def script(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return await self._tracing.call("redis", name, super().script(name, keys, args))


class TracedStream(JobStream):
    """Tells of each batch of messages."""

    def __init__(self, client: StreamClient, prefix: str, *, tracing: Tracing) -> None:
        super().__init__(client, prefix)
        self._tracing = tracing

    async def apply(self, batch: Batch) -> Refusal | None:
        ids = [message.job_id for messages in (batch.adds, batch.delays) for message in messages]
        return await self._tracing.send(ids, len(ids), super().apply(batch))
