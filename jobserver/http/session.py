"""The session of a browser: an API key in a cookie that no script can read, and that no other site can use."""

from __future__ import annotations

from typing import Final

from jobserver.access import SCOPES, Caller
from jobserver.http.body import Nothing
from jobserver.http.caller import address_of
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.page import TAG
from jobserver.http.reply import DATA, JSON, Headers, Reply, answer, encode
from jobserver.job.wire import SessionBody, SessionView
from jobserver.pipeline.credentials import COOKIE

SET_COOKIE: Final = Header("Set-Cookie", f"`{COOKIE}`, for this browser alone.")


@operation(
    "GET",
    "/session",
    Answer(status=200, description="What this browser may do.", kind=SessionView),
    tag=TAG,
    access="open",
    problems=(503,),
)
async def show_session(call: Call[Nothing, Nothing]) -> Reply:
    """Tell who is signed in, and what a page needs to know of the server."""
    return answer(_view(call, await call.api.sessions.whose(call.scope["headers"])))


@operation(
    "POST",
    "/session",
    Answer(status=200, description="Signed in.", kind=SessionView, headers=(SET_COOKIE,)),
    tag=TAG,
    access="open",
    problems=(401, 429, 503),
)
async def sign_in(call: Call[Nothing, SessionBody]) -> Reply:
    """Sign in by an API key.

    The cookie of the answer is as good as the key in `Authorization`; with it, what is not GET or HEAD needs
    `Sec-Fetch-Site: same-origin`, or an `Origin` that is this server. Who sends ten wrong keys in a minute waits.
    """
    caller = await call.api.sessions.sign_in(call.body.key.strip(), address_of(call.scope))
    cookie = _cookie(call, call.body.key.strip())
    return Reply(200, encode(_view(call, caller)), (*JSON, *cookie))


@operation(
    "DELETE",
    "/session",
    Answer(status=204, description="Signed out.", media_types=(), headers=(SET_COOKIE,)),
    tag=TAG,
    access="open",
)
async def sign_out(call: Call[Nothing, Nothing]) -> Reply:
    """Sign out: this browser forgets the key, which stays valid."""
    return Reply(204, headers=(*DATA, *_cookie(call, "", "; Max-Age=0")))


OPERATIONS: Final = (show_session, sign_in, sign_out)


def _cookie(call: Call[Nothing, SessionBody] | Call[Nothing, Nothing], value: str, more: str = "") -> Headers:
    secure = "; Secure" if call.scope["scheme"] == "https" else ""
    return ((b"set-cookie", f"{COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/{secure}{more}".encode()),)


def _view(call: Call[Nothing, SessionBody] | Call[Nothing, Nothing], caller: Caller | None) -> SessionView:
    facts = call.api.facts
    # To somebody who is not let in, which release runs and where traces are is nothing but a hint.
    known = caller is not None
    return SessionView(
        open=caller is not None and caller.id is None,
        name=None if caller is None else caller.name,
        scope=None if caller is None else SCOPES[caller.rank],
        signed_in=caller is not None and caller.id is not None,
        version=facts.version if known else None,
        trace_url_template=facts.trace_url_template if known else None,
        max_payload_bytes=facts.max_payload_bytes,
    )
