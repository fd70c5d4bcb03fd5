"""The part of the HTTP API that a sandbox answers, as a transport of httpx: the clients are the real ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import httpx
import msgspec

from jobserver.errors import Conflict, Invalid, JobserverError, KeyReused, NotFound
from jobserver.job.fingerprint import fingerprint_of
from jobserver.job.forms import forms_of
from jobserver.job.model import Job, Status
from jobserver.job.query import Page
from jobserver.job.signature import invalid
from jobserver.job.wire import (
    BatchBody,
    BatchItem,
    BatchView,
    Problem,
    ProblemError,
    Readiness,
    SubmitBody,
    attempt_list,
    job_page,
    job_view,
    normalized,
)

if TYPE_CHECKING:  # it makes its transport
    from jobserver.testing.sandbox import Sandbox

_SUBMIT: Final = msgspec.json.Decoder(SubmitBody)
_BATCH: Final = msgspec.json.Decoder(BatchBody)
_READY: Final = Readiness(status="ok", database="ok", redis="ok", draining=False)


class SandboxTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers the calls about jobs; every other one is a 404 that says so."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return _answered(lambda: self._answer(request, self._sandbox.wait_here))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        waited = _wait_of(request)
        if waited is not None:
            # An error is told below, as the answer.
            with suppress(JobserverError):
                await self._sandbox.wait(*waited)
        return _answered(lambda: self._answer(request, lambda job_id, _: self._sandbox.job(job_id)))

    def _answer(self, request: httpx.Request, wait: Callable[[UUID, float], Job]) -> tuple[int, Any]:
        sandbox, query = self._sandbox, request.url.params
        match request.method, request.url.path.strip("/").split("/"):
            case "POST", ["jobs"]:
                job, created = sandbox.submit(normalized(_SUBMIT.decode(request.content)))
                return (201 if created else 200), job_view(job)
            case "POST", ["jobs", "batch"]:
                return 201, self._batch(_BATCH.decode(request.content).jobs)
            case "GET", ["jobs"]:
                return 200, self._page(query, {Status(value) for value in query.get_list("status")})
            case "GET", ["dlq"]:
                return 200, self._page(query, {Status.FAILED})
            case "GET", ["jobs", job_id]:
                waited = _wait_of(request)
                return 200, job_view(sandbox.job(UUID(job_id)) if waited is None else wait(*waited))
            case "GET", ["jobs", job_id, "attempts"]:
                return 200, attempt_list(sandbox.attempts(UUID(job_id)))
            case "POST", ["jobs", job_id, "cancel"]:
                job = sandbox.cancel(UUID(job_id))
                return (202 if job.status is Status.RUNNING else 200), job_view(job)
            case "POST", ["jobs", job_id, "retry"]:
                return 200, job_view(sandbox.replay(UUID(job_id)))
            case "GET", ["health", "ready"]:
                return 200, _READY
        raise NotFound(f"A sandbox does not answer {request.method} {request.url.path}.")

    def _batch(self, bodies: list[SubmitBody]) -> BatchView:
        # All or none: what one of them would be refused for is found before any is kept.
        before = self._sandbox.snapshot()
        items = []
        for index, body in enumerate(bodies):
            try:
                job, created = self._sandbox.submit(normalized(body))
            except Invalid as error:
                self._sandbox.restore(before)
                raise Invalid(error.path.replace("$", f"$.jobs[{index}]", 1), error.message) from None
            except KeyReused:
                self._sandbox.restore(before)
                raise
            items.append(BatchItem(job.id, job.status, created))
        return BatchView(items)

    def _page(self, query: httpx.QueryParams, statuses: set[Status]) -> Any:
        after, before = query.get("created_after"), query.get("created_before")
        found = [
            job
            for job in reversed(self._sandbox.jobs)
            if (not statuses or job.status in statuses)
            and query.get("type", job.type) == job.type
            and query.get("queue", job.queue) == job.queue
            and (query.get("tag") is None or query["tag"] in job.tags)
            and (query.get("q") is None or any(form.encode() in job.payload for form in forms_of(query["q"])))
            and (query.get("error") is None or _says(job, query["error"]))
            and query.get("fingerprint") in (None, _fingerprint(job))
            and (after is None or job.created_at > datetime.fromisoformat(after))
            and (before is None or job.created_at < datetime.fromisoformat(before))
        ]
        limit = int(query.get("limit", 20))
        start = int(query.get("cursor", query.get("offset", 0)))
        end = start + limit
        page = Page(
            items=found[start:end],
            total=len(found),
            total_capped=False,
            next_cursor=str(end) if end < len(found) else None,
        )
        return job_page(page, limit=limit, offset=int(query.get("offset", 0)))


def _says(job: Job, part: str) -> bool:
    return job.error is not None and (part in job.error.type or part in job.error.message)


def _fingerprint(job: Job) -> str | None:
    return fingerprint_of(job.error) if job.status is Status.FAILED else None


def _wait_of(request: httpx.Request) -> tuple[UUID, float] | None:
    """The job that is waited for, and how many seconds at most."""
    match request.method, request.url.path.strip("/").split("/"):
        case "GET", ["jobs", job_id] if "wait" in request.url.params:
            return UUID(job_id), float(request.url.params["wait"])
    return None


def _answered(answer: Callable[[], tuple[int, Any]]) -> httpx.Response:
    try:
        status, body = answer()
    except msgspec.ValidationError as error:
        status, body = _refused(invalid(error, "$"))
    except (JobserverError, ValueError) as error:
        status, body = _refused(error)
    kind = "application/json" if status < 400 else "application/problem+json"
    return httpx.Response(status, content=msgspec.json.encode(body), headers={"content-type": kind})


def _refused(error: Exception) -> tuple[int, Problem]:
    status = 404 if isinstance(error, NotFound) else 409 if isinstance(error, Conflict) else 422
    title = HTTPStatus(status).phrase
    if isinstance(error, Invalid):
        return status, Problem(
            title=title, status=status, detail=str(error), errors=[ProblemError(error.path, error.message)]
        )
    return status, Problem(title=title, status=status, detail=str(error))
