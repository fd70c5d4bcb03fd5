"""Announcer: what the readers of live events are to be told, in the order of the commits, until Redis has it.

Called after each commit, with the whole flush. What waits is bounded: when Redis is away for long it is dropped, and
the next entry says that there is a gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from jobserver.job.events import DELETED
from jobserver.job.model import Claimed, Job, Progress, Status
from jobserver.job.times import instant_us
from jobserver.stream.events import Told

MAX_WAITING: Final = 50_000
MAX_TOLD: Final = 5_000
# A gap that no event follows is told after this.
_INSIST_SECONDS: Final = 1.0
# So long a claim waits for company: what else there is to tell Redis goes with it, and saves a call.
_COMPANY_SECONDS: Final = 0.005
_RUNNING: Final = Status.RUNNING.value
_encode: Final = msgspec.json.Encoder().encode

# As readers get it: id, type, queue, status, attempt, fence.
Row = tuple[UUID, str, str, str, int, int]


class Announcer:
    """`sender` is this process; `most` how many events the feed keeps; `now_us` the database's clock.

    `wake` begins a call to Redis, if none is under way. `on_lost` hears why events are missing, and how many.
    """

    def __init__(
        self,
        sender: str,
        most: int,
        now_us: Callable[[], int],
        *,
        wake: Callable[[], None] = lambda: None,
        on_lost: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        self._sender = sender
        self._most = most
        self._now_us = now_us
        self.wake = wake
        self._on_lost = on_lost
        self._flushes: deque[tuple[int, bytes]] = deque()
        self._said = b""
        self._gap = ""
        self._number = 0
        # Events that wait.
        self.waiting = 0
        self._company: asyncio.TimerHandle | None = None
        self._insists = False

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._flushes or self._said or self._insists)

    # One verb a flush. Where a message or an acknowledgement follows, it takes the event along: no call for it alone.

    def submitted(self, jobs: Sequence[Job]) -> None:
        """New jobs, whose messages follow."""
        rows = [(job.id, job.type, job.queue, job.status, job.attempt, job.fence) for job in jobs]
        if rows:
            self._put(instant_us(jobs[0].created_at), rows)

    def claimed(self, jobs: Sequence[Claimed]) -> None:
        """Jobs that run now."""
        rows = [(job.id, job.type, job.queue, _RUNNING, job.attempt, job.fence) for job in jobs]
        if rows:
            self._put(instant_us(jobs[0].started_at), rows)
            if self._company is None:
                self._company = asyncio.get_running_loop().call_later(_COMPANY_SECONDS, self._leave)

    def moved(self, rows: Sequence[Row]) -> None:
        """Jobs that are something else now; acknowledgements or messages follow."""
        if rows:
            self._put(self._now_us(), rows)

    def commanded(self, rows: Sequence[Row]) -> None:
        """Jobs that are something else now, with nothing to follow."""
        if rows:
            self._put(self._now_us(), rows)
            self.wake()

    def deleted(self, rows: Iterable[tuple[UUID, str, str, int]]) -> None:
        """Jobs that are gone: id, type, queue and the fence that would be theirs."""
        self.commanded([(job_id, kind, queue, DELETED, 0, fence) for job_id, kind, queue, fence in rows])

    def said(self, rows: Sequence[tuple[UUID, int, Progress]]) -> None:
        """What handlers said of themselves, under the fences of their claims. Only the latest is kept."""
        if rows:
            self._said = _encode((self._now_us(), rows))
            self.wake()

    def lost(self, reason: str, count: int = 0) -> None:
        """Events are missing, and readers should know: with the next event, or in a second."""
        self._gap = reason
        self._on_lost(reason, count)
        asyncio.get_running_loop().call_later(_INSIST_SECONDS, self._insist)

    # What Redis is told.

    def take(self) -> Told | None:
        """What is to be told next, as one entry."""
        if not self:
            return None
        payloads: list[bytes] = []
        count = 0
        while self._flushes and (not payloads or count + self._flushes[0][0] <= MAX_TOLD):
            events, payload = self._flushes.popleft()
            count += events
            payloads.append(payload)
        self.waiting -= count
        self._number += 1
        told = Told(
            sender=self._sender,
            number=self._number,
            most=self._most,
            count=count,
            payload=b"[" + b",".join(payloads) + b"]",
            gap=self._gap,
            progress=self._said,
        )
        self._gap, self._said, self._insists = "", b"", False
        if self._company is not None and not self._flushes:
            # What it was for has gone: the next claim waits its own time for company.
            self._company.cancel()
            self._company = None
        return told

    def _put(self, at_us: int, rows: Sequence[Any]) -> None:
        count = len(rows)
        if self.waiting + count > MAX_WAITING:
            # All of it: what is told later begins after the gap.
            lost, self.waiting = self.waiting, 0
            self._flushes.clear()
            self.lost("overflow", lost)
        self._flushes.append((count, _encode((at_us, rows))))
        self.waiting += count

    def _insist(self) -> None:
        if self._gap:
            self._insists = True
            self.wake()

    def _leave(self) -> None:
        self._company = None
        if self._flushes:
            self.wake()
