"""An Api whose every answer is given beforehand, for tests of what HTTP makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import msgspec

from jobserver.access import ANYBODY, ActionPage, Caller
from jobserver.http.api import Api, PageFacts
from jobserver.http.app import build_app
from jobserver.job.activity import Bucket, Recent
from jobserver.job.model import Job, Priority, Status
from jobserver.settings import Settings
from tests.http.cases import UNKNOWN_ID

NOW = datetime(2026, 3, 7, 10, 0, 0, 123456, tzinfo=UTC)

JOB = Job(
    id=UUID(UNKNOWN_ID),
    type="echo",
    queue="default",
    priority=Priority.NORMAL,
    status=Status.QUEUED,
    payload=b'{"b":1,"a":12345678901234567890123}',
    result=None,
    error=None,
    attempt=0,
    retry_count=0,
    max_retries=3,
    crashes=0,
    fence=0,
    timeout_seconds=60.0,
    idempotency_key=None,
    tags=("billing",),
    progress=None,
    callback_url=None,
    created_at=NOW,
    updated_at=NOW,
    run_at=NOW,
    started_at=None,
    finished_at=None,
    expires_at=None,
    due_at=NOW,
    worker_id=None,
    lease_expires_at=None,
    cancel_requested=False,
    trace_context="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=1",
)


class Accepted(msgspec.Struct, frozen=True):
    """What a submit is answered with."""

    job: Job
    created: bool


class Canned:
    """Any part of the Api: each method gives its answer, or raises it, and writes down what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def method(*values: Any, **named: Any) -> Any:
            self.asked.append((name, values, named))
            found = self._answers[name]
            if isinstance(found, Exception):
                raise found
            return found

        return method


async def _metrics(accept: str) -> tuple[bytes, str]:
    return accept.encode(), "text/plain; version=0.0.4"


class Everybody:
    """Access while no key was ever made."""

    open = True
    ever = False

    async def admit(self, headers: Any, needed: str, *, without_sql: bool = False, changes: bool = False) -> Caller:
        return ANYBODY

    def refused(self, reason: str) -> None:
        """Nobody counts."""


class Unaudited:
    """Actions that nobody writes down."""

    @asynccontextmanager
    async def action(
        self, caller: Caller, address: str | None, action: str, target: dict[str, Any]
    ) -> AsyncIterator[Any]:
        yield SimpleNamespace(changed=0)

    async def actions(self, *, limit: int, cursor: str | None) -> ActionPage:
        return ActionPage(items=[], next_cursor=None)


class Unheard:
    """Activity of which nothing is known."""

    async def recent(self) -> Recent:
        return Recent()

    async def buckets(self, minutes: int) -> tuple[list[Bucket], bool]:
        return [], False


class Unlimited:
    """A gate that is open."""

    limit: Any = None

    def check(self) -> None:
        """Nobody is refused."""


def client_of(
    canned: Canned, *, access: Any = None, gate: Any = None, activity: Any = None, **settings: Any
) -> httpx.AsyncClient:
    """A client of the application over these answers, without a network."""
    part: Any = canned
    api = Api(
        submitter=part,
        commands=part,
        views=part,
        activity=activity or Unheard(),
        why=part,
        health=part,
        access=access or Everybody(),
        sessions=part,
        audit=Unaudited(),
        gate=gate or Unlimited(),
        metrics=_metrics,
        facts=PageFacts(version="1.2.3", trace_url_template=None, max_payload_bytes=1_048_576),
    )
    app: Any = build_app(api, Settings(**settings))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8000", headers={"accept": "*/*"})
