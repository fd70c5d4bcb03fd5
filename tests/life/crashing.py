"""The named crash points: where a server kills itself, loses an answer or is held up, at each arrow of the README's
table of writes.

`CRASH_AT=NAME jobserver serve tests.life.crashing:handlers` is the production server, of whose store or stream one
method is wrapped when its handlers are imported. Without the variable nothing is.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from jobserver.errors import DatabaseUnavailable
from jobserver.job.model import Claimed, Ended, Status
from jobserver.store.engine import _PostgresSession, _SqliteSession
from jobserver.store.jobs import JobStore, Moved
from jobserver.store.views import Views
from jobserver.stream.client import StreamClient
from jobserver.stream.jobs import JobStream
from tests.life.handlers_noted import handlers as handlers  # what the command line names

CRASH_AT: Final = "CRASH_AT"
# A file: while it is missing, what is held up waits.
GO_ON: Final = "CRASH_GO_ON"
_POLL_SECONDS: Final = 0.02

Arguments = tuple[Any, ...]
Call = Callable[[], Awaitable[Any]]
# What happens around a call: the point, the call itself, its object and its arguments.
Around = Callable[["Here", Call, Any, Arguments], Awaitable[Any]]


def said(name: str) -> str:
    """What a server writes to stderr when it has come to a point."""
    return f"crash point reached: {name}"


class Here:
    """A point in the server that was told to crash at it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.reached = False

    def say(self) -> None:
        if not self.reached:
            self.reached = True
            os.write(2, f"{said(self._name)}\n".encode())

    def die(self) -> NoReturn:
        self.say()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("alive after SIGKILL")


async def before(here: Here, call: Call, owner: Any, arguments: Arguments) -> NoReturn:
    """Die instead of making the call."""
    here.die()


def after(wanted: Callable[[Any], object] = bool) -> Around:
    """Die when the call has returned what is wanted, before anybody hears of it."""

    async def around(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
        result = await call()
        if wanted(result):
            here.die()
        return result

    return around


def uncommitted(*statements: str, wanted: Callable[[dict[str, Any]], bool] = bool) -> Around:
    """Die as late before its COMMIT as a process can: after a statement of a transaction that goes on, and before
    one that is its own transaction.
    """

    async def around(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
        name, columns = arguments[0], arguments[1] if len(arguments) > 1 else {}
        is_wanted = name in statements and wanted(columns)
        if is_wanted and not _in_transaction(owner):
            here.die()
        rows = await call()
        if is_wanted:
            here.die()
        return rows

    return around


def _in_transaction(session: Any) -> bool:
    driver = session._driver
    return bool(driver.in_transaction if isinstance(session, _SqliteSession) else driver.is_in_transaction())


def reply_lost(wanted: Callable[[Any], object] = bool) -> Around:
    """The first call is applied, and its caller told that SQL did not answer."""

    async def around(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
        result = await call()
        if wanted(result) and not here.reached:
            here.say()
            raise DatabaseUnavailable("the reply is lost, by order of a test")
        return result

    return around


async def unanswered(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
    """No call reaches SQL."""
    here.say()
    raise DatabaseUnavailable("no answer, by order of a test")


def held_up(wanted: Callable[[Arguments], bool] = bool) -> Around:
    """The call waits for the test, while everything else goes on."""
    go_on = Path(os.environ.get(GO_ON, "/nonexistent"))

    async def around(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
        if wanted(arguments):
            here.say()
            while not go_on.exists():
                await asyncio.sleep(_POLL_SECONDS)
        return await call()

    return around


async def before_promotion(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
    """Die instead of calling the script, the first time that it would move something."""
    name, keys, args = arguments
    if name == "promote":
        # Each second key is a stream.
        due = [await owner.commands.zcount(delayed, "-inf", args[0]) for delayed in keys[::2]]
        if any(due):
            here.die()
    return await call()


async def before_extension(here: Here, call: Call, owner: Any, arguments: Arguments) -> Any:
    """Die instead of extending the lease of a job that runs. Claims under way have leases as well."""
    states = await Views(owner.database).states([job_id for job_id, _ in arguments[0]])
    if any(state.change.status == Status.RUNNING for state in states.values()):
        here.die()
    return await call()


def _adds(arguments: Arguments) -> bool:
    return bool(arguments[0].adds)


def _won(answers: list[Any]) -> bool:
    return any(isinstance(answer, Claimed) for answer in answers)


def _ended(how: Ended) -> Callable[[list[Moved | None]], bool]:
    return lambda moves: any(moved is not None and moved.ended is how for moved in moves)


def _was(*statuses: Status) -> Callable[[list[Any]], bool]:
    return lambda results: any(result.status in statuses for result in results)


class Point(msgspec.Struct, frozen=True):
    """A place in a step of the README's table, what happens there, and what has to follow."""

    step: str
    around: Around
    on: tuple[tuple[type, str], ...]
    then: str


_SESSIONS: Final = ((_PostgresSession, "fetch"), (_SqliteSession, "fetch"))
_INSERT: Final = ((JobStore, "insert"),)
_CLAIM: Final = ((JobStore, "claim"),)
_EXTEND: Final = ((JobStore, "extend_leases"),)
_SETTLE: Final = ((JobStore, "settle"),)
_CANCEL: Final = ((JobStore, "cancel"),)

POINTS: Final[dict[str, Point]] = {
    "submit: before COMMIT": Point(
        "submit", uncommitted("insert_jobs"), _SESSIONS, "nothing is stored; the client repeats with its key"
    ),
    "submit: after COMMIT, before the answer": Point(
        "submit", after(), _INSERT, "the job is there once, also for the client who repeats; reconcile publishes it"
    ),
    "submit: after the answer, before XADD": Point(
        "submit", held_up(_adds), ((JobStream, "apply"),), "the job was accepted; reconcile publishes it"
    ),
    "claim: after XREADGROUP, before the UPDATE": Point(
        "claim", before, _CLAIM, "XAUTOCLAIM brings the message to another process; nothing is counted"
    ),
    "claim: after COMMIT, before the handler": Point(
        "claim", after(_won), _CLAIM, "the lease ends and the job is reclaimed; the message that comes again is dropped"
    ),
    "claim: the reply to COMMIT is lost": Point(
        "claim", reply_lost(_won), _CLAIM, "the claim token says that it was ours; the job runs once"
    ),
    "heartbeat: before the leases are extended": Point(
        "heartbeat", before_extension, _EXTEND, "the lease ends, the job is reclaimed"
    ),
    "heartbeat: after the leases were extended": Point(
        "heartbeat", after(), _EXTEND, "the longer lease ends, the job is reclaimed"
    ),
    "heartbeat: no answer until the lease is over": Point(
        "heartbeat", unanswered, _EXTEND, "the job goes on: only a refusal cancels"
    ),
    "heartbeat: late, after another process has reclaimed": Point(
        "heartbeat", held_up(), _EXTEND, "it is refused: the handler is cancelled, its result discarded"
    ),
    "finish: before COMMIT": Point(
        "finish",
        # PostgreSQL has a statement of its own for batches in which every handler returned.
        uncommitted(
            "complete", "settle", wanted=lambda columns: Ended.COMPLETED in columns.get("ended", [Ended.COMPLETED])
        ),
        _SESSIONS,
        "neither the end nor its history row is there; the job runs again",
    ),
    "finish: after COMMIT, before XACK": Point(
        "finish", after(_ended(Ended.COMPLETED)), _SETTLE, "the message comes again and is dropped"
    ),
    "finish: the reply to COMMIT is lost": Point(
        "finish",
        reply_lost(_ended(Ended.COMPLETED)),
        _SETTLE,
        "repeated, the history row of our fence says that it was ours",
    ),
    "finish: after COMMIT of a retry, before ZADD": Point(
        "finish", after(_ended(Ended.RETRYING)), _SETTLE, "reconcile publishes it; the old message is dropped"
    ),
    "finish: after COMMIT of a snooze, before ZADD": Point(
        "finish", after(_ended(Ended.SNOOZED)), _SETTLE, "reconcile publishes it; no attempt is counted"
    ),
    "finish: after COMMIT of a hand-back, before XADD": Point(
        "finish", after(_ended(Ended.HANDED_BACK)), _SETTLE, "reconcile publishes it; no attempt is counted"
    ),
    "finish: after COMMIT of a failure, before the feed": Point(
        "finish", after(_ended(Ended.FAILED)), _SETTLE, "the feed is topped up from SQL, once"
    ),
    "promote: before the script": Point(
        "promote", before_promotion, ((StreamClient, "script"),), "the job is still in the delayed set"
    ),
    "promote: after the script": Point(
        "promote", after(lambda answer: answer[0] > 0), ((JobStream, "promote"),), "the job is in the stream, once"
    ),
    "cancel: after COMMIT, before PUBLISH": Point(
        "cancel", after(_was(Status.RUNNING)), _CANCEL, "the owner's heartbeat brings it"
    ),
    "cancel: after COMMIT, before the own handler is told": Point(
        "cancel", after(_was(Status.RUNNING)), _CANCEL, "the request outlives the crash: the job is canceled, not run"
    ),
    "cancel: after COMMIT of a waiting job": Point(
        "cancel", after(_was(Status.CANCELED)), _CANCEL, "its message is dropped, its handler never runs"
    ),
    "reclaim: after COMMIT, before XADD": Point(
        "reclaim", after(_ended(Ended.LEASE_LOST)), _SETTLE, "reconcile publishes it; the crash is counted once"
    ),
    "replay: after COMMIT, before XADD": Point("replay", after(), ((JobStore, "replay"),), "reconcile publishes it"),
    "expire: after COMMIT, before the feed": Point(
        "expire", after(), ((JobStore, "expire"),), "the feed is topped up from SQL, once; the message is dropped"
    ),
    "reconcile: after COMMIT, before XADD": Point(
        "reconcile", after(), ((JobStore, "bump_overtaken"),), "the next one finds the job again"
    ),
}


def arm(name: str) -> None:
    """Make this process crash at a point."""
    point = POINTS[name]
    here = Here(name)
    for owner, method in point.on:
        setattr(owner, method, _wrapped(getattr(owner, method), point.around, here))


def _wrapped(original: Callable[..., Awaitable[Any]], around: Around, here: Here) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def method(self: Any, /, *arguments: Any, **named: Any) -> Any:
        return await around(here, lambda: original(self, *arguments, **named), self, arguments)

    return method


if CRASH_AT in os.environ:
    arm(os.environ[CRASH_AT])
