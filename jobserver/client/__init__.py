"""The HTTP client, async and sync, with the same verbs. It imports nothing of the server.

`Calls` knows what to send, when to repeat it and what the answer means, and does no I/O; `Client` and
`SyncClient` only carry its requests out. A submit always has an idempotency key, so repeating it is safe.

    JobserverError
    └── ClientError
        ├── ServerUnreachable     no answer, or none that a jobserver gives
        ├── RequestRefused        answered with a problem: its status, title, detail and errors
        ├── JobFailed             the result of a job that failed or was canceled
        └── NotFinished           the job has not ended in time; a TimeoutError too
"""

from typing import TYPE_CHECKING, Any

from jobserver.client.calls import Calls
from jobserver.client.errors import ClientError, JobFailed, NotFinished, RequestRefused, ServerUnreachable
from jobserver.client.exchange import Answer, Lost, Pause, Request, Response, Steps
from jobserver.client.http import DEFAULT_URL
from jobserver.client.synchronous import SyncClient
from jobserver.client.views import Action, Job, Page
from jobserver.client.watching import DeletedEvent, Event, JobEvent, ProgressEvent, ResetEvent

if TYPE_CHECKING:
    from jobserver.client.asynchronous import Client

__all__ = [
    "DEFAULT_URL",
    "Action",
    "Answer",
    "Calls",
    "Client",
    "ClientError",
    "DeletedEvent",
    "Event",
    "Job",
    "JobEvent",
    "JobFailed",
    "Lost",
    "NotFinished",
    "Page",
    "Pause",
    "ProgressEvent",
    "Request",
    "RequestRefused",
    "ResetEvent",
    "Response",
    "ServerUnreachable",
    "Steps",
    "SyncClient",
]


def __getattr__(name: str) -> Any:
    # Imported on use: who blocks needs no asyncio, a fifth of the time until a command answers.
    if name != "Client":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jobserver.client.asynchronous import Client

    globals()[name] = Client
    return Client
