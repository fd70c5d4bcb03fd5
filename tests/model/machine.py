"""The rules by which jobs live and engines fail, and what must hold after each: SQL says what the model says.

At the end of every run the faults stop, one honest worker remains, and everything must become terminal, and the
streams, pending lists and delayed sets empty.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Concatenate, Final, Literal, ParamSpec
from uuid import UUID

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jobserver.errors import Conflict, KeyReused
from jobserver.job.model import (
    Canceled,
    Delivery,
    HandedBack,
    LeaseLost,
    Outcome,
    Progress,
    Returned,
    Snoozed,
    Status,
    bounded_error,
)
from jobserver.job.times import from_us
from jobserver.job.wire import SubmitBody
from jobserver.store.jobs import Inserted
from jobserver.stream.jobs import Batch, Message
from tests.jobs import raised
from tests.model.expected import (
    IDEMPOTENCY_SECONDS,
    SECOND,
    Expected,
    canceled,
    claimed,
    expired,
    extended,
    replayed,
    settled,
    submitted,
)
from tests.model.world import QUEUES, SLOTS, STREAMS, WORKERS, Hold, Worker, World, effective
from tests.parts import body

P = ParamSpec("P")

# Beyond the longest delay, the longest snooze and a backoff, in rounds of two minutes.
DRAIN_ROUNDS: Final = 20
DRAIN_STEP_SECONDS: Final = 120
# So few that rules meet the same jobs again and again.
MOST_JOBS: Final = 5
BUSY_JOBS: Final = 3
UPKEEP_TURNS: Final = 4
# Between two steps, so that they are not of the same moment.
_TICK_US: Final = 1_000
_LOST: Final = LeaseLost(bounded_error("LeaseLost", ""))

WHICH: Final = st.integers(0, 11)
WORKER: Final = st.integers(0, WORKERS - 1)
OUTCOMES: Final[st.SearchStrategy[Outcome]] = st.sampled_from(
    [
        Returned(b"1"),
        raised(),
        raised(after=3.0),
        raised(retryable=False),
        Snoozed(2.0),
        Snoozed(700.0),
        HandedBack(),
        HandedBack(5.0),
        Canceled("by its handler"),
    ]
)
UPKEEP: Final = ("promote", "reclaim", "take over", "reconcile", "reconcile by hand", "expire", "fold counts")
FAULTS: Final = (
    "a lease is over",
    "a message is lost",
    "Redis is wiped",
    "the groups are destroyed",
    "a worker dies",
    "a worker falls silent, or speaks again",
)


class Request(msgspec.Struct, frozen=True):
    """A job to be sent. Times in seconds from the submit."""

    queue: str = "default"
    priority: Literal["high", "normal"] = "normal"
    delay: int = 0
    max_retries: int = 1
    expires_in: int | None = None


REQUESTS: Final = st.builds(
    Request,
    queue=st.sampled_from(QUEUES),
    priority=st.sampled_from(["high", "normal"]),
    delay=st.sampled_from([0, 0, 0, 3, 700]),
    max_retries=st.integers(0, 2),
    expires_in=st.sampled_from([None, None, 2, 20]),
)


class Keyed(msgspec.Struct, frozen=True):
    """Several clients at once, with the same idempotency key and the same or another body."""

    key: str
    variants: list[int]


KEYED: Final = st.builds(
    Keyed, key=st.sampled_from(["a", "b"]), variants=st.lists(st.integers(0, 1), min_size=1, max_size=3)
)


class Key(msgspec.Struct, frozen=True):
    """Whose an idempotency key is, with which body, and until when."""

    job_id: UUID
    variant: int
    expires_us: int


def stepped(
    step: Callable[Concatenate[LifeMachine, P], Coroutine[Any, Any, None]],
) -> Callable[Concatenate[LifeMachine, P], None]:
    """Run a step on the world's event loop, a moment after the one before; then Redis is told."""

    def run(machine: LifeMachine, /, *args: P.args, **kwargs: P.kwargs) -> None:
        async def whole() -> None:
            await machine.world.advance(_TICK_US)
            await step(machine, *args, **kwargs)
            await machine.tell()
            if machine.habits:
                await machine.go_on()

        machine.run(whole())

    # Hypothesis shows a rule by its name.
    functools.update_wrapper(run, step)
    return run


class LifeMachine(RuleBasedStateMachine):
    """One run: a few jobs, three workers, two queues.

    Hypothesis leaves out about half of the rules in each run, so life also goes on by itself, by habits drawn at the
    start: the rules are what interferes.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.jobs: dict[UUID, Expected] = {}
        self.keys: dict[str, Key] = {}
        self.paused: frozenset[str] = frozenset()
        self.deleted: set[UUID] = set()
        # What handlers said and SQL does not know yet.
        self.said: dict[tuple[int, UUID, int], float] = {}
        self.available_us: dict[UUID, int] = {}
        self.habits: list[Outcome | None] = []
        self.others_die = True
        self._turn = 0
        self._broken = False
        self.world.run(self.world.begin())

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            self.world.run(step)
        except BaseException:
            # What the end would find is no news then.
            self._broken = True
            raise

    def teardown(self) -> None:
        try:
            if not self._broken:
                self.run(self._drain())
        finally:
            self.world.run(self.world.end())

    @initialize(
        sent=st.lists(REQUESTS, min_size=1, max_size=3),
        habits=st.lists(st.none() | OUTCOMES, max_size=8),
        others_die=st.booleans(),
    )
    @stepped
    async def begin_with(self, sent: list[Request], habits: list[Outcome | None], others_die: bool) -> None:
        """Some jobs, one message each in a worker's hands."""
        self.habits, self.others_die = habits, others_die
        for request in sent:
            await self._submit_one(0, request)
        await self.tell()
        for each in self.world.workers:
            await self._deliver(each, 1)
            await self._claim(each, 1)

    async def go_on(self) -> None:
        """Between two rules life goes on by its habits, so that what the rules do finds something under way."""
        self._turn += 1
        worker = self.world.workers[self._turn % WORKERS]
        if len(self.alive()) < BUSY_JOBS:
            await self._submit_any(worker.number, Keyed("a", [0]) if self._turn % 2 else Request())
            await self.tell()
        outcome = self.habits[self._turn % len(self.habits)]
        if outcome is not None and worker.holds:
            await self._finish(worker.holds[0], outcome)
        await worker.server.promote.step()
        await self._deliver(worker, 1)
        await self._claim(worker, 1)
        if self._turn % UPKEEP_TURNS == 0:
            await self._reclaim(worker)
            await worker.server.reconcile.step()
        await self.tell()

    # Submit.

    @precondition(lambda self: len(self.alive()) < MOST_JOBS)
    @rule(by=WORKER, request=REQUESTS | KEYED)
    @stepped
    async def submit(self, by: int, request: Request | Keyed) -> None:
        await self._submit_any(by, request)

    async def _submit_any(self, by: int, request: Request | Keyed) -> None:
        if isinstance(request, Request):
            await self._submit_one(by, request)
        else:
            await self._submit_with_a_key(by, request)

    async def _submit_with_a_key(self, by: int, request: Keyed) -> None:
        key, variants = request.key, request.variants
        bodies = [body(payload=variant, max_retries=1, idempotency_key=key) for variant in variants]
        answers = await asyncio.gather(*(self._submit(by, each) for each in bodies), return_exceptions=True)
        owner = self._owner(key)
        if owner is None:
            created = [
                (answer, variant)
                for answer, variant in zip(answers, variants, strict=True)
                if isinstance(answer, Inserted) and answer.created
            ]
            assert len(created) == 1, answers
            [(inserted, variant)] = created
            self._add(inserted)
            owner = Key(inserted.job.id, variant, self.world.now_us + IDEMPOTENCY_SECONDS * SECOND)
            self.keys[key] = owner
        else:
            assert not any(isinstance(answer, Inserted) and answer.created for answer in answers)
        for answer, variant in zip(answers, variants, strict=True):
            if variant == owner.variant:
                assert isinstance(answer, Inserted), answer
                assert answer.job.id == owner.job_id
            else:
                assert isinstance(answer, KeyReused), answer

    def _owner(self, key: str) -> Key | None:
        """Whose the key is: for its time, and as long as its job is not terminal."""
        known = self.keys.get(key)
        if known is None or known.job_id not in self.jobs:
            return None
        kept = known.expires_us > self.world.now_us or not self.jobs[known.job_id].ended
        return known if kept else None

    async def _submit_one(self, by: int, request: Request) -> None:
        expires_us = None if request.expires_in is None else self.world.now_us + request.expires_in * SECOND
        inserted = await self._submit(
            by,
            body(
                queue=request.queue,
                priority=request.priority,
                delay=request.delay,
                max_retries=request.max_retries,
                expires_at=None if expires_us is None else from_us(expires_us),
            ),
        )
        assert inserted.created
        self._add(inserted, delay_us=request.delay * SECOND, expires_us=expires_us)

    async def _submit(self, by: int, request: SubmitBody) -> Inserted:
        return await self.world.workers[by].server.submitter.submit(request, scope="", trace_context=None)

    def _add(self, inserted: Inserted, *, delay_us: int = 0, expires_us: int | None = None) -> None:
        job = inserted.job
        assert job.id not in self.jobs
        self.jobs[job.id] = submitted(
            job.id,
            queue=job.queue,
            priority=job.priority,
            max_retries=job.max_retries,
            now_us=self.world.now_us,
            delay_us=delay_us,
            expires_us=expires_us,
        )

    # Deliver, claim, run.

    @precondition(lambda self: self.alive())
    @rule(by=WORKER, count=st.integers(1, 4))
    @stepped
    async def deliver(self, by: int, count: int) -> None:
        await self._deliver(self.world.workers[by], count)

    @precondition(lambda self: any(each.fetched for each in self.world.workers))
    @rule(of=WHICH, count=st.integers(1, 4))
    @stepped
    async def claim(self, of: int, count: int) -> None:
        """Claim what was delivered, maybe long ago."""
        waiting = [each for each in self.world.workers if each.fetched]
        await self._claim(waiting[of % len(waiting)], count)

    @precondition(lambda self: self.alive())
    @rule(by=WORKER, outcomes=st.lists(OUTCOMES, max_size=3))
    @stepped
    async def run_some(self, by: int, outcomes: list[Outcome]) -> None:
        """Promote, deliver and claim what there is, and end some of it: most of a life in one step."""
        worker = self.world.workers[by]
        await worker.server.promote.step()
        await self._deliver(worker, SLOTS)
        await self._claim(worker, SLOTS)
        for hold, outcome in zip(worker.holds, outcomes, strict=False):
            await self._finish(hold, outcome)

    async def _deliver(self, by: Worker, count: int) -> int:
        found = await by.fetch(count)
        assert len(found) <= count
        for delivery in found:
            self._must_be_known(delivery)
        by.fetched += found
        return len(found)

    def _must_be_known(self, delivery: Delivery) -> None:
        """No message is about a job that nobody sent, nor ahead of SQL."""
        if delivery.job_id not in self.deleted:
            assert delivery.fence <= self.jobs[delivery.job_id].fence

    async def _claim(self, by: Worker, count: int) -> None:
        count = min(count, by.server.consumers.free)
        taken, by.fetched = by.fetched[:count], by.fetched[count:]
        began = await by.claim(taken)
        due = set()
        for delivery in taken:
            job = self.jobs.get(delivery.job_id)
            if job is not None and job.claimable(delivery.fence, self.world.now_us, self.paused):
                due.add((job.id, job.fence + 1))
                self.jobs[job.id] = claimed(job, by.id, self.world.now_us)
        assert began == due

    @precondition(lambda self: self.world.holds)
    @rule(of=WHICH, outcome=OUTCOMES)
    @stepped
    async def finish(self, of: int, outcome: Outcome) -> None:
        """An attempt ends, be it one that lost its lease: then nothing may come of it."""
        await self._finish(self._hold(of), outcome)

    async def _finish(self, hold: Hold, outcome: Outcome) -> None:
        outcome = effective(hold.running, outcome)
        percent = self.said.pop((hold.worker.number, hold.job_id, hold.fence), None)
        await hold.worker.end(hold, outcome)
        job = self.jobs.get(hold.job_id)
        if job is not None and job.held_under(hold.fence):
            self.jobs[job.id] = settled(job, outcome, self.world.now_us, percent)

    @precondition(lambda self: self.world.holds)
    @rule(of=WHICH, percent=st.integers(0, 100), hear=st.booleans(), extend=st.booleans())
    @stepped
    async def heartbeat(self, of: int, percent: int, hear: bool, extend: bool) -> None:
        """A handler says something; its worker beats, for commands, for its leases, or not at all."""
        hold = self._hold(of)
        self._say(hold, percent)
        if hear:
            await self._hear(hold.worker)
        if extend:
            await self._extend(hold.worker)

    def _say(self, hold: Hold, percent: int) -> None:
        hold.worker.server.holdings.said(hold.running.job, Progress(percent))
        self.said[hold.worker.number, hold.job_id, hold.fence] = percent

    async def _hear(self, by: Worker) -> None:
        """Cancel requests are heard, progress is stored."""
        await by.hear()
        for hold in by.holds:
            percent = self.said.pop((by.number, hold.job_id, hold.fence), None)
            job = self.jobs.get(hold.job_id)
            if job is None or not job.held_under(hold.fence):
                continue
            if percent is not None:
                self.jobs[job.id] = msgspec.structs.replace(job, percent=percent)
            assert not job.cancel_requested or hold.running.is_stopping()

    async def _extend(self, by: Worker) -> None:
        """Leases that are still held are extended, the other jobs are let go of."""
        kept = set()
        for hold in by.holds:
            job = self.jobs.get(hold.job_id)
            if job is not None and job.held_under(hold.fence):
                kept.add((job.id, job.fence))
                self.jobs[job.id] = extended(job, self.world.now_us)
        await by.extend()
        assert set(by.attempts.open) == kept
        assert set(by.server.holdings.fences()) == kept

    # Commands.

    @precondition(lambda self: self.jobs)
    @rule(of=WHICH, by=WORKER, ends=st.none() | OUTCOMES)
    @stepped
    async def cancel(self, of: int, by: int, ends: Outcome | None) -> None:
        """A running one may end before its worker has heard of it."""
        jobs = self.alive() or list(self.jobs.values())
        job = jobs[of % len(jobs)]
        commands = self.world.workers[by].server.commands
        if job.ended:
            await self._must_conflict(commands.cancel(job.id))
            return
        await commands.cancel(job.id)
        self.jobs[job.id] = canceled(job)
        for hold in self.world.holds:
            if ends is not None and (hold.job_id, hold.fence) == (job.id, job.fence):
                await self._finish(hold, ends)

    @precondition(lambda self: self.jobs)
    @rule(of=WHICH, by=WORKER, what=st.sampled_from(["replay", "replay if failed", "delete", "pause or resume"]))
    @stepped
    async def command(self, of: int, by: int, what: str) -> None:
        worker = self.world.workers[by]
        if what == "pause or resume":
            queue = QUEUES[of % len(QUEUES)]
            await self._set_paused(worker, queue, queue not in self.paused)
            return
        commands = worker.server.commands
        # Those that have not ended come last.
        job = sorted(self.jobs.values(), key=lambda job: not job.ended)[of % len(self.jobs)]
        permitted = {Status.FAILED, Status.CANCELED} if what == "replay" else {Status.FAILED}
        if what == "delete":
            asked: Coroutine[Any, Any, object] = commands.delete(job.id)
        else:
            asked = commands.replay(job.id, failed_only=what == "replay if failed")
        if job.status not in permitted:
            await self._must_conflict(asked)
            return
        await asked
        if what == "delete":
            self._forget(job)
        else:
            self.jobs[job.id] = replayed(job, self.world.now_us)

    def _forget(self, job: Expected) -> None:
        del self.jobs[job.id]
        self.deleted.add(job.id)
        self.keys = {key: known for key, known in self.keys.items() if known.job_id != job.id}

    async def _set_paused(self, by: Worker, queue: str, paused: bool) -> None:
        commands = by.server.commands
        await (commands.pause(queue) if paused else commands.resume(queue))
        self.paused = self.paused | {queue} if paused else self.paused - {queue}

    async def _must_conflict(self, command: Coroutine[Any, Any, object]) -> None:
        try:
            await command
        except Conflict:
            return
        raise AssertionError("a command that this status does not permit was carried out")

    # Upkeep.

    @rule(by=WORKER, what=st.sampled_from(UPKEEP))
    @stepped
    async def upkeep(self, by: int, what: str) -> None:
        worker = self.world.workers[by]
        match what:
            case "promote":
                await worker.server.promote.step()
            case "reclaim":
                await self._reclaim(worker)
            case "take over":
                await self._take_over(worker)
            case "reconcile":
                await worker.server.reconcile.step()
            case "reconcile by hand":
                await worker.server.reconcile.pass_over()
            case "expire":
                await self._expire(worker)
            case "fold counts":
                await worker.server.store.fold_counts()

    async def _reclaim(self, by: Worker) -> None:
        own = set(by.server.holdings.fences())
        lost = [job for job in self.jobs.values() if job.lost(self.world.now_us) and (job.id, job.fence) not in own]
        for job in lost:
            self.jobs[job.id] = settled(job, _LOST, self.world.now_us)
        assert await by.server.reclaim.lost_jobs() == len(lost)

    async def _take_over(self, by: Worker) -> None:
        """XAUTOCLAIM: messages that nobody acknowledged for a lease."""
        for job_id, fence in await by.take_over():
            job = self.jobs[job_id]
            assert job.claimable(fence - 1, self.world.now_us, self.paused)
            self.jobs[job_id] = claimed(job, by.id, self.world.now_us)

    async def _expire(self, by: Worker) -> None:
        overdue = [job for job in self.jobs.values() if job.overdue(self.world.now_us)]
        for job in overdue:
            self.jobs[job.id] = expired(job)
        assert await by.server.expire.step() == len(overdue)

    # What goes on, and what goes wrong.

    @rule(seconds=st.sampled_from([1, 3, 6, 11, 45, 700]))
    @stepped
    async def wait(self, seconds: int) -> None:
        await self.world.advance(seconds * SECOND)

    @rule(of=WHICH, by=WORKER, what=st.sampled_from(FAULTS))
    @stepped
    async def go_wrong(self, of: int, by: int, what: str) -> None:
        worker = self.world.workers[by]
        match what:
            case "a lease is over" if self.world.holds:
                await self._lose_lease(self._hold(of))
            case "a message is lost":
                await self.world.lose(of)
            case "Redis is wiped":
                await self.world.wipe()
            case "the groups are destroyed":
                # Everything that is in the streams will be delivered again.
                await self.world.destroy_groups()
            case "a worker dies":
                await self._crash(worker)
            case "a worker falls silent, or speaks again":
                # What it wanted to say comes late.
                worker.silent = not worker.silent

    async def _lose_lease(self, hold: Hold) -> None:
        """Its worker stalled, and does not know."""
        job = self.jobs.get(hold.job_id)
        if job is not None and job.held_under(hold.fence):
            lease_us = await self.world.end_lease(job.id)
            self.jobs[job.id] = msgspec.structs.replace(job, lease_us=lease_us)

    @precondition(lambda self: self.world.holds)
    @rule(of=WHICH, too_late=st.none() | OUTCOMES)
    @stepped
    async def lose_job_to_another(self, of: int, too_late: Outcome | None) -> None:
        """The whole way at once: the lease ends, the job is reclaimed, and another worker runs it; then the first
        comes back, to keep it or to end it."""
        hold = self._hold(of)
        await self._lose_lease(hold)
        other = self.world.workers[(hold.worker.number + 1) % WORKERS]
        await self._reclaim(other)
        await self.tell()
        await self._agree()
        await self.world.advance(4 * SECOND)
        await other.server.promote.step()
        await self._deliver(other, SLOTS)
        await self._claim(other, SLOTS)
        self._say(hold, 99)
        await self._hear(hold.worker)
        if too_late is None:
            await self._extend(hold.worker)
        else:
            await self._finish(hold, too_late)

    @precondition(lambda self: self.jobs)
    @rule(of=WHICH, by=WORKER, older=st.integers(0, 2), early=st.booleans())
    @stepped
    async def duplicate(self, of: int, by: int, older: int, early: bool) -> None:
        """A message comes again, the newest of its job or an older one, and is read at once.

        Rather of a job that waits, when it may run or before: there a wrong claim would be won.
        """
        jobs = [job for job in self.jobs.values() if job.waits and job.fence] or list(self.jobs.values())
        job = jobs[of % len(jobs)]
        wait_us = job.due_us - self.world.now_us if job.waits else 0
        if not early and 0 < wait_us <= 5 * SECOND:
            await self.world.advance(wait_us)
        fence = job.fence if early else max(0, job.fence - older)
        message = Message(job.id, fence, job.queue, job.priority, self.available_us[job.id])
        worker = self.world.workers[by]
        await worker.server.stream.apply(Batch(adds=[message]))
        await self._deliver(worker, SLOTS)
        await self._claim(worker, SLOTS)

    async def _crash(self, by: Worker) -> None:
        self.said = {key: percent for key, percent in self.said.items() if key[0] != by.number}
        await self.world.replace(by)

    # What must hold.

    @invariant()
    def sql_says_what_the_model_says(self) -> None:
        self.run(self._agree())

    async def _agree(self) -> None:
        """Each job that was accepted is there once, in the status, under the fence and with the history expected."""
        assert not self.world.errors, self.world.errors
        seen = await self.world.look()
        assert set(seen.jobs) == set(self.jobs)
        for job in list(self.jobs.values()):
            self._must_equal(job, seen.jobs[job.id])
            available_us = seen.available_us[job.id]
            if job.waits:
                due_us = seen.jobs[job.id].due_us
                # Reconcile moves it, but never past the jobs that come after.
                assert due_us <= available_us <= max(due_us, self.world.now_us + 1_000)
        self.available_us = seen.available_us
        assert seen.keys == {key: known.job_id for key, known in self.keys.items()}
        assert seen.counts == Counter((job.queue, job.status) for job in self.jobs.values())

    def _must_equal(self, job: Expected, seen: Expected) -> None:
        assert job.due_us <= seen.due_us <= job.due_us + job.jitter_us, (job, seen)
        self.jobs[job.id] = job = msgspec.structs.replace(job, due_us=seen.due_us, jitter_us=0)
        wrong = {
            name: (getattr(job, name), getattr(seen, name))
            for name in Expected.__struct_fields__
            if getattr(job, name) != getattr(seen, name)
        }
        assert not wrong, f"job {list(self.jobs).index(job.id)}, expected and seen: {wrong}"

    # The end.

    async def _drain(self) -> None:
        """The faults stop: one honest worker must bring everything to an end."""
        honest = self.world.workers[0]
        honest.silent = False
        if not self.others_die:
            await self._finish_all(self.world.holds)
        for other in self.world.workers[1:]:
            await self._crash(other)
        await self.tell()
        for queue in QUEUES:
            await self._set_paused(honest, queue, False)
        for _ in range(DRAIN_ROUNDS):
            await self._drain_round(honest)
            sizes = await honest.server.stream.sizes(STREAMS)
            if not self.alive() and sizes.entries == sizes.pending == sizes.delayed == 0:
                break
        else:
            raise AssertionError(f"not at rest: {self.alive()}, {sizes}")
        await honest.server.reconcile.feed_dead_letters()
        await self.tell()
        fed = set(await honest.server.stream.dead_letters())
        assert {(job.id, job.fence) for job in self.jobs.values() if job.status is Status.FAILED} <= fed

    async def _drain_round(self, honest: Worker) -> None:
        await self.world.advance(DRAIN_STEP_SECONDS * SECOND)
        await self._hear(honest)
        await self._finish_all(honest.holds)
        await self._expire(honest)
        await self._reclaim(honest)
        await self._agree()
        await honest.server.reconcile.step()
        await self.tell()
        # What reconcile publishes is for a microsecond later.
        await self.world.advance(_TICK_US)
        await honest.server.promote.step()
        await self.tell()
        await self._take_over(honest)
        await self._finish_all(honest.holds)
        while await self._deliver(honest, SLOTS) or honest.fetched:
            await self._claim(honest, SLOTS)
            await self._agree()
            await self._finish_all(honest.holds)
        await self.tell()
        await self._agree()

    async def _finish_all(self, holds: Iterable[Hold]) -> None:
        for hold in holds:
            await self._finish(hold, Returned(b'"drained"'))

    async def tell(self) -> None:
        """Redis hears what the workers wanted to say."""
        for worker in self.world.workers:
            if not worker.silent:
                await worker.tell()

    # Picks.

    def alive(self) -> list[Expected]:
        return [job for job in self.jobs.values() if not job.ended]

    def _hold(self, of: int) -> Hold:
        holds = self.world.holds
        return holds[of % len(holds)]
