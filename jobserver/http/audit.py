"""The audit log: who did what that needs the scope admin, and to how many jobs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from jobserver.http.api import Noted
from jobserver.http.body import Nothing
from jobserver.http.caller import address_of
from jobserver.http.operations import Answer, Call, operation
from jobserver.http.reply import Reply, answer
from jobserver.job.wire import AuditPage, audit_page

TAG: Final = "System"


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Paging of the log."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[
        Annotated[str, Meta(min_length=1, max_length=512)] | None,
        Meta(description="The `next_cursor` of the page before."),
    ] = None


@operation(
    "GET",
    "/audit",
    Answer(status=200, description="A page of actions.", kind=AuditPage),
    tag=TAG,
    access="admin",
    problems=(503,),
)
async def list_actions(call: Call[AuditQuery, Nothing]) -> Reply:
    """List admin actions, newest first.

    An action is noted before it is done: one whose `changed` is null was begun, and nobody came to say more.
    """
    page = await call.api.audit.actions(limit=call.query.limit, cursor=call.query.cursor)
    return answer(audit_page(page, limit=call.query.limit))


OPERATIONS: Final = (list_actions,)


def noted(call: Call[Any, Any], action: str, **target: object) -> AbstractAsyncContextManager[Noted]:
    """Around what an admin does: who, what, and how many. What is None or empty of the target is left out."""
    given = {name: value for name, value in target.items() if value not in (None, (), [], False)}
    return call.api.audit.action(call.caller, address_of(call.scope), action, given)
