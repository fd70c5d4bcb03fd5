"""The gate: whether a submit is taken in, decided before anything of it is read, so that a refusal costs little.

A server that is offered more than it can do answers those whom it takes as fast as ever, and the others at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from jobserver.access import Caller, Quota, Standing
from jobserver.errors import BacklogFull, Overloaded, StreamUnavailable
from jobserver.job.model import Status
from jobserver.pipeline.submit import Submitter
from jobserver.store.views import Views
from jobserver.telemetry import Telemetry

# How long Redis is left alone after it did not answer.
AWAY_SECONDS: Final = 1.0
# Callers that are told apart while it is away; the others share one quota.
MAX_CALLERS: Final = 10_000
_REST: Final = ""
BACKLOG_SECONDS: Final = 0.5
# As old as a count of the backlog may be: SQL does not answer, and so refuses submits by itself.
COUNTED_SECONDS: Final = 5.0


class SharedLimit(Protocol):
    """The quota of each caller over all processes. Raises StreamUnavailable, within the time of a request."""

    async def hit(self, caller: str) -> Standing: ...


class Backlog:
    """How many jobs wait, as of the last look; a loop looks."""

    def __init__(self, views: Views, max_waiting: int) -> None:
        self._views = views
        self._max_waiting = max_waiting
        self._waiting = 0
        self._counted = float("-inf")

    @property
    def full(self) -> bool:
        return self._waiting >= self._max_waiting and time.monotonic() - self._counted < COUNTED_SECONDS

    async def step(self) -> float | None:
        """Look at the counts that SQL keeps. Raises DatabaseUnavailable."""
        by_status = await self._views.by_status()
        self._waiting = sum(by_status[status] for status in (Status.QUEUED, Status.SCHEDULED, Status.RETRYING))
        self._counted = time.monotonic()
        return BACKLOG_SECONDS


class LocalLimit:
    """The share of a quota that one of `processes()` may give while they cannot ask each other. Fixed windows."""

    def __init__(self, quota: Quota, processes: Callable[[], int]) -> None:
        self._quota = quota
        self._processes = processes
        self._ends = float("-inf")
        self._amount = 0
        self._hits: dict[str, int] = {}

    def hit(self, caller: str, now: float) -> Standing:
        """Count one hit at `now`, in seconds of a monotonic clock."""
        standing = self.standing(caller, now)
        if standing.allowed:
            caller = self._counted_as(caller)
            self._hits[caller] = self._hits.get(caller, 0) + 1
        return standing

    def standing(self, caller: str, now: float) -> Standing:
        """Where a hit would leave its caller; counts none."""
        if now >= self._ends:
            self._begin(now)
        hits = self._hits.get(self._counted_as(caller), 0)
        left = max(0, self._amount - hits - 1)
        return Standing(hits < self._amount, left, max(1, int(self._ends - now + 0.999)))

    def _counted_as(self, caller: str) -> str:
        return _REST if caller not in self._hits and len(self._hits) >= MAX_CALLERS else caller

    def _begin(self, now: float) -> None:
        processes = max(1, self._processes())
        # A share of less than one is one, in a window that is longer by as much.
        self._amount = max(1, self._quota.amount // processes)
        longer = max(1.0, processes / self._quota.amount)
        self._ends = now + self._quota.window_seconds * longer
        self._hits = {}


class RateLimit:
    """The quota of submits of each caller: shared through Redis, and while it is away a share of it, local."""

    def __init__(
        self, quota: Quota, shared: SharedLimit, telemetry: Telemetry, *, processes: Callable[[], int]
    ) -> None:
        self.quota = quota
        self._shared = shared
        self._telemetry = telemetry
        self._local = LocalLimit(quota, processes)
        self._away_until = float("-inf")
        self._away = False

    async def take(self, caller: Caller, address: str) -> Standing:
        """One submit of a caller: of its key, or of its address where it has none."""
        who = address if caller.id is None else str(caller.id)
        standing = await self._hit(who)
        if not standing.allowed:
            self._telemetry.rejected("rate_limited")
        return standing

    async def _hit(self, who: str) -> Standing:
        now = time.monotonic()
        if now >= self._away_until:
            try:
                standing = await self._shared.hit(who)
            except StreamUnavailable as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                if not self._away:
                    self._telemetry.warn("rate_limit_local", error=str(error))
                self._away = True
            else:
                self._away = False
                return standing
        return self._local.hit(who, now)


class Gate:
    """What stands before the submits of a process."""

    def __init__(
        self,
        submitter: Submitter,
        telemetry: Telemetry,
        *,
        backlog: Backlog | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        self._submitter = submitter
        self._telemetry = telemetry
        self._backlog = backlog
        self.limit = limit

    def check(self) -> None:
        """Raises Overloaded while no submit is taken."""
        error: Overloaded | None = None
        if self._submitter.full:
            error = _FULL
        elif self._backlog is not None and self._backlog.full:
            error = _TOO_LONG
        if error is not None:
            self.refused(error)
            # A fresh one: this carries a traceback.
            raise type(error)(*error.args)

    def arrive(self) -> Overloaded | None:
        """Why a submit that is about to be read is not taken. None: it is, and is counted among those of this turn."""
        if self._backlog is not None and self._backlog.full:
            return _TOO_LONG
        return None if self._submitter.arrive() else _FULL

    def refused(self, error: Overloaded) -> None:
        """Count a submit that was refused for this."""
        self._telemetry.rejected("backlog" if isinstance(error, BacklogFull) else "overloaded")


_FULL: Final = Overloaded("too many submits are under way")
_TOO_LONG: Final = BacklogFull("too many jobs wait")
