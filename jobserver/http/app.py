"""The HTTP application: Litestar with our routes, problems for every error, the guard around it all."""

from __future__ import annotations

from typing import Final

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Receive, Scope, Send

from jobserver.http import audit, dead_letters, jobs, live, page, queues, session, system
from jobserver.http.api import Api
from jobserver.http.cors import Cors
from jobserver.http.documents import with_documents
from jobserver.http.guard import Guard
from jobserver.http.operations import Operation, methods, options_route, performer, route
from jobserver.http.problems import on_exception
from jobserver.settings import Settings

OPERATIONS: Final[tuple[Operation, ...]] = with_documents(
    (
        *jobs.OPERATIONS,
        *live.OPERATIONS,
        *dead_letters.OPERATIONS,
        *queues.OPERATIONS,
        *audit.OPERATIONS,
        *system.OPERATIONS,
        *page.OPERATIONS,
        *session.OPERATIONS,
    )
)


def build_app(api: Api, settings: Settings) -> ASGIApp:
    """The ASGI application of a server. It owns nothing: who starts `api` stops it."""
    app = Litestar(
        route_handlers=[
            # First of their path: Litestar adds its own where it finds none.
            *(options_route(path, allowed) for path, allowed in _allowed().items()),
            *(route(declared, api, settings.max_payload_bytes) for declared in OPERATIONS),
        ],
        exception_handlers={HTTPException: on_exception, Exception: on_exception},
        # The document is ours: Litestar cannot see bodies and queries that it does not decode.
        openapi_config=None,
        logging_config=None,
        # Said outright, or the environment variables LITESTAR_DEBUG and LITESTAR_PDB decide.
        debug=False,
        pdb_on_exception=False,
    )
    short: ASGIApp = ShortCut(app, jobs.submit_job, api, settings.max_payload_bytes)
    guarded = Guard(short, settings.host, api.access, settings.cors_origins or ())
    return Cors(guarded, settings.cors_origins) if settings.cors_origins else guarded


class ShortCut:
    """One operation answered before Litestar sees it, and as Litestar would: routing costs more than reading it.

    It stays registered there, for the document, for OPTIONS and for every spelling of its path but the plain one.
    """

    def __init__(self, app: ASGIApp, declared: Operation, api: Api, max_payload_bytes: int) -> None:
        self._app = app
        self._method = declared.method
        self._path = declared.path
        self._perform = performer(declared, api, max_payload_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and scope["path"] == self._path and scope["method"] == self._method:
            reply = await self._perform(scope, receive, {})
            await reply(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _allowed() -> dict[str, set[str]]:
    """The methods of each path."""
    allowed: dict[str, set[str]] = {}
    for declared in OPERATIONS:
        allowed.setdefault(declared.path, set()).update(methods(declared))
    return allowed
