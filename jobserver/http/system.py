"""The process itself: alive, ready, measured."""

from __future__ import annotations

from typing import Final

from jobserver.http.body import Nothing
from jobserver.http.operations import Answer, Call, Header, operation
from jobserver.http.reply import DATA, JSON, Reply, answer, encode
from jobserver.job.wire import HealthView, Readiness

TAG: Final = "System"

RETRY_AFTER: Final = Header("Retry-After", "Seconds to wait before the next try.", {"type": "integer"})


@operation(
    "GET",
    "/health",
    Answer(status=200, description="The process answers.", kind=HealthView),
    tag=TAG,
    access="open",
)
async def show_health(call: Call[Nothing, Nothing]) -> Reply:
    """Tell whether the process answers.

    Asks neither the database nor Redis.
    """
    return answer(HealthView())


@operation(
    "GET",
    "/health/ready",
    Answer(status=200, description="Requests are welcome.", kind=Readiness),
    Answer(
        status=503, description="The database is down, or the server drains.", kind=Readiness, headers=(RETRY_AFTER,)
    ),
    tag=TAG,
    access="open",
)
async def show_readiness(call: Call[Nothing, Nothing]) -> Reply:
    """Tell whether to send requests here.

    Redis being down is `degraded`: jobs are accepted, and delivered when it is back.
    """
    readiness = await call.api.health.ready()
    if readiness.status == "unavailable":
        return Reply(503, encode(readiness), (*JSON, (b"retry-after", b"1")))
    return answer(readiness)


@operation(
    "GET",
    "/metrics",
    Answer(
        status=200,
        description="The metrics, in the format that Accept asks for.",
        media_types=("text/plain", "application/openmetrics-text"),
    ),
    tag=TAG,
    access="read",
    headers=(Header("Accept", "`application/openmetrics-text` brings exemplars."),),
)
async def show_metrics(call: Call[Nothing, Nothing]) -> Reply:
    """Show the metrics for Prometheus."""
    accept = b",".join(value for name, value in call.scope["headers"] if name == b"accept")
    body, media_type = await call.api.metrics(accept.decode("latin-1"))
    return Reply(200, body, ((b"content-type", media_type.encode("latin-1")), *DATA))


OPERATIONS: Final = (show_health, show_readiness, show_metrics)
