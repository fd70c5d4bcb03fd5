"""Servers that do nothing but answer `POST /jobs`: the ceilings of HTTP in `bench.ceilings`.

    python -m bench.echo litestar|asgi PORT

`litestar` decodes the body of a submit as ours does, and answers with it; `asgi` answers the bytes that came.
Both as our server runs: uvicorn with uvloop and httptools, without access log.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
import uvicorn
from litestar import Litestar, post
from msgspec import Meta

from jobserver.job.wire import Key, Name, PriorityName, Tag


class EchoBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The body of a submit, as SubmitBody declares it. Litestar cannot leave the payload undecoded."""

    type: Name
    payload: Any = None
    queue: Name | None = None
    priority: PriorityName | None = None
    delay: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    run_at: datetime | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] | None = None
    timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    expires_at: datetime | None = None
    idempotency_key: Key | None = None
    tags: tuple[Tag, ...] = ()


@post("/jobs")
async def echo(data: EchoBody) -> EchoBody:
    return data


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": body})


APPS: Final[dict[str, Any]] = {"litestar": Litestar([echo], openapi_config=None, logging_config=None), "asgi": asgi}


def main() -> None:
    name, port = sys.argv[1:]
    uvicorn.run(
        APPS[name],
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
