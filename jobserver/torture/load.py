"""The load: a bounded number of submitters over HTTP, each job with an idempotency key of its own.

A request that was refused, reset or answered with 503 is repeated with the same key, at another process. Every
answer is remembered, for the checker.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any, Final, Literal

import httpx
import msgspec

from jobserver.torture.history import TERMINAL, Command, Sighting, Submit
from jobserver.torture.processes import Processes
from jobserver.torture.schedule import Planned, Single, planned_job, single_job

MAX_UNDER_WAY: Final = 64
MAX_FOLLOWING: Final = 500
LAST_REPEATS_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = (0.05, 0.2, 0.5)
_REPEATED: Final = (httpx.codes.SERVICE_UNAVAILABLE,)


class Ledger:
    """What became of one planned job."""

    def __init__(self, planned: Planned) -> None:
        self.planned: Final = planned
        self.job_ids: Final[set[str]] = set()
        self.created = 0

    def submit(self) -> Submit:
        return Submit(
            key=self.planned.body["idempotency_key"],
            type=self.planned.type,
            expected=self.planned.expected,
            job_ids=frozenset(self.job_ids),
            acknowledged=bool(self.job_ids),
            created=self.created,
        )


class Load:
    """Submits at a steady rate until it is closed. `counts` are for people."""

    def __init__(self, processes: Processes, *, seed: int, rate: float) -> None:
        self._processes: Final = processes
        self._seed: Final = seed
        self._rate: Final = rate
        self._chosen: Final = random.Random(f"load {seed}")  # noqa: S311
        self._room: Final = asyncio.Semaphore(MAX_UNDER_WAY)
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._pacer: asyncio.Task[None] | None = None
        self._give_up = float("inf")
        self._singles = 0
        self.ledgers: Final[list[Ledger]] = []
        self.commands: Final[list[Command]] = []
        self.sightings: Final[list[Sighting]] = []
        self.odd_answers: Final[list[str]] = []
        self.counts: Final[Counter[str]] = Counter()

    def start(self) -> None:
        self._pacer = asyncio.create_task(self._pace(), name="load")

    async def close(self) -> None:
        """Submit nothing new, and let what is under way be repeated until it is acknowledged."""
        if self._pacer is not None:
            self._pacer.cancel()
            await asyncio.gather(self._pacer, return_exceptions=True)
        self._give_up = time.monotonic() + LAST_REPEATS_SECONDS
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def submit_single(self, kind: Single, payload: object) -> None:
        """A job that is itself a fault."""
        self._singles += 1
        await self._begin(single_job(self._seed, kind, self._singles, payload))

    async def _pace(self) -> None:
        started = time.monotonic()
        number = 0
        while True:
            await self._begin(planned_job(self._seed, number))
            number += 1
            # What it fell behind while everything was down is not caught up with.
            ahead = started + number / self._rate - time.monotonic()
            if ahead < -1.0:
                started -= ahead + 1.0
            if ahead > 0:
                await asyncio.sleep(ahead)

    async def _begin(self, planned: Planned) -> None:
        await self._room.acquire()
        ledger = Ledger(planned)
        self.ledgers.append(ledger)
        self._own(self._submitting(ledger), "submit")

    def _own(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _submitting(self, ledger: Ledger) -> None:
        try:
            sends = [self._submit(ledger) for _ in range(2 if ledger.planned.twice else 1)]
            await asyncio.gather(*sends)
        finally:
            self._room.release()
        if ledger.job_ids:
            self.counts["accepted"] += 1
            if ledger.planned.follow != "nothing" and len(self._tasks) < MAX_FOLLOWING:
                self._own(self._follow(ledger.planned, min(ledger.job_ids)), "follow")
        else:
            self.counts["never accepted"] += 1

    async def _submit(self, ledger: Ledger) -> None:
        repeats = 0
        while time.monotonic() < self._give_up:
            answer = await self._ask("POST", "/jobs", ledger.planned.body)
            if answer is not None and answer.status_code in (httpx.codes.CREATED, httpx.codes.OK):
                self.counts["created" if answer.status_code == httpx.codes.CREATED else "replayed answers"] += 1
                # A repeat may be answered 201 only by what is the first to commit.
                ledger.created += answer.status_code == httpx.codes.CREATED
                ledger.job_ids.add(answer.json()["id"])
                return
            if answer is not None and answer.status_code not in _REPEATED:
                self._odd(answer)
                return
            await asyncio.sleep(_PAUSE_SECONDS[min(repeats, len(_PAUSE_SECONDS) - 1)])
            repeats += 1
            self.counts["repeats"] += 1

    async def _follow(self, planned: Planned, job_id: str) -> None:
        await asyncio.sleep(planned.after_seconds)
        if planned.follow == "cancel":
            await self._command("cancel", f"/jobs/{job_id}/cancel", job_id)
        seen = await self._look(job_id)
        if planned.follow == "replay" and seen is not None and seen.status == "failed":
            await self._command("replay", f"/jobs/{job_id}/retry", job_id)

    async def _command(self, kind: Literal["cancel", "replay"], path: str, job_id: str) -> None:
        """Sent once: repeating it could do it twice."""
        answer = await self._ask("POST", path, None)
        said: Literal["moved", "requested", "refused", "unknown"] = "unknown"
        if answer is not None:
            match answer.status_code:
                case httpx.codes.OK:
                    said = "moved"
                case httpx.codes.ACCEPTED:
                    said = "requested"
                case httpx.codes.CONFLICT:
                    said = "refused"
                case httpx.codes.SERVICE_UNAVAILABLE:
                    pass
                case _:
                    self._odd(answer)
        self.counts[f"{kind} {said}"] += 1
        self.commands.append(Command(kind, job_id, said))

    async def _look(self, job_id: str) -> Sighting | None:
        answer = await self._ask("GET", f"/jobs/{job_id}?wait=5", None)
        if answer is None or answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return None
        if answer.status_code != httpx.codes.OK:
            self._odd(answer)
            return None
        job = answer.json()
        if job["status"] not in TERMINAL:
            return None
        seen = Sighting(job_id, job["status"], job["fence"])
        self.sightings.append(seen)
        return seen

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response | None:
        slot = self._chosen.randrange(len(self._processes.ports))
        try:
            return await self._processes.http.request(
                method,
                self._processes.url(slot) + path,
                content=None if body is None else msgspec.json.encode(body),
                headers={"content-type": "application/json"},
            )
        except httpx.TransportError as error:
            self.counts[f"no answer: {type(error).__name__}"] += 1
            return None

    def _odd(self, answer: httpx.Response) -> None:
        self.counts["odd answers"] += 1
        self.odd_answers.append(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:300]}"
        )
