"""What happened in a torture, as data. All times are seconds since 1970 on this machine's clock."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

TERMINAL: Final = frozenset({"completed", "failed", "canceled"})

# What a fault may be the cause of.
LEASE_LOST: Final = "lease lost"
HANDED_BACK: Final = "handed back"
DEATH: Final = "death"
# A death with exit code 0: the end of a graceful stop.
STOPPED: Final = "stopped"
CHILD_DEATH: Final = "child death"


class Submit(msgspec.Struct, frozen=True, kw_only=True):
    """One job that was sent, perhaps many times, under one key. `job_ids` are those of all its 2xx answers."""

    key: str
    type: str
    expected: frozenset[str]
    job_ids: frozenset[str]
    acknowledged: bool
    # Replays sent by us excluded, how often it was answered 201; more than once is a second job.
    created: int


class Command(msgspec.Struct, frozen=True):
    """A cancel or replay that was sent once. "moved" changed the fence; "unknown" got no clear answer."""

    kind: Literal["cancel", "replay"]
    job_id: str
    answer: Literal["moved", "requested", "refused", "unknown"]


class Sighting(msgspec.Struct, frozen=True):
    """A job seen in a terminal state while the torture went on."""

    job_id: str
    status: str
    fence: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a handler as its own log tells it. `how` is empty where the end was never written."""

    job_id: str
    fence: int
    type: str
    pid: int
    started: float
    ended: float | None = None
    how: str = ""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the history in SQL. `pid` is that of the process which claimed."""

    job_id: str
    fence: int
    number: int
    outcome: str
    started: float
    ended: float
    error_type: str | None
    pid: int


class StoredJob(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the jobs in SQL, after everything came to rest."""

    id: str
    key: str | None
    type: str
    status: str
    fence: int
    attempt: int
    retry_count: int
    max_retries: int
    crashes: int
    error_type: str | None
    error_message: str | None
    # The fence that the handler returned as its result.
    result_fence: int | None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """An injected fault: from when to when, and what it may explain. `pids` None: of every process."""

    fault: str
    start: float
    end: float
    pids: frozenset[int] | None
    explains: frozenset[str]


class Death(msgspec.Struct, frozen=True):
    """A server process that ended. `code` is negative for a signal."""

    pid: int
    started: float
    at: float
    code: int


class Buffer(msgspec.Struct, frozen=True, kw_only=True):
    """An in-memory queue of a process: the most that was seen in it, and its bound."""

    pid: int
    name: str
    most: int
    bound: int


class Remains(msgspec.Struct, frozen=True, kw_only=True):
    """What is left in Redis at the end."""

    entries: dict[str, int] = {}
    pending: dict[str, int] = {}
    delayed: dict[str, int] = {}
    dead_consumers: tuple[str, ...] = ()
    grown_bytes: int = 0


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the checker looks at. `lease_seconds` bounds how late the effect of a fault may come."""

    lease_seconds: float
    max_crashes: int
    submits: tuple[Submit, ...] = ()
    commands: tuple[Command, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    runs: tuple[Run, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    jobs: tuple[StoredJob, ...] = ()
    windows: tuple[Window, ...] = ()
    deaths: tuple[Death, ...] = ()
    remains: Remains = Remains()
    buffers: tuple[Buffer, ...] = ()
    # Answers that no fault excuses, such as a 500.
    odd_answers: tuple[str, ...] = ()


class Violation(msgspec.Struct, frozen=True):
    """An invariant that does not hold, and where."""

    invariant: str
    detail: str
    job_id: str | None = None
