"""What the clients raise. The tree is drawn in the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobserver.errors import JobserverError
from jobserver.job.model import JobError, Status

if TYPE_CHECKING:  # the views of a job know nothing of errors, and these only name them
    from jobserver.client.views import Job
    from jobserver.job.wire import Problem


class ClientError(JobserverError):
    """The root of the tree above."""


class ServerUnreachable(ClientError):
    """No answer, or none that a jobserver gives, after all repeats. A submit may still have been stored."""


class RequestRefused(ClientError):
    """The server answered with a problem."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title)
        self.status = status
        self.problem = problem


class JobFailed(ClientError):
    """The job failed, or was canceled; `error` is what its last failed attempt raised, if one did."""

    def __init__(self, job: Job) -> None:
        error = job.error
        said = "" if error is None else f": {error.type}: {error.message}"
        super().__init__(f"The job {job.id} {'was canceled' if job.status is Status.CANCELED else 'failed'}{said}")
        self.job = job
        self.error: JobError | None = error


class NotFinished(ClientError, TimeoutError):
    """The job has not ended in time. It goes on."""

    def __init__(self, job: Job, seconds: float) -> None:
        super().__init__(f"The job {job.id} is still {job.status} after {seconds:g} s")
        self.job = job
