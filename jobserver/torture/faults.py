"""The table of faults: how each is applied and healed, how long it lasts, and what it may explain.

A fault that takes SQL away from all processes explains no lost lease: nobody may reclaim until it was back for a
full lease. Nor does one of Redis, of the clocks, or of an event loop that is held up within the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import msgspec

from jobserver.torture.engines import Engines, OwnEngines
from jobserver.torture.history import CHILD_DEATH, DEATH, HANDED_BACK, LEASE_LOST, STOPPED
from jobserver.torture.processes import Processes
from jobserver.torture.proxy import Mode
from jobserver.torture.resp import RedisError
from jobserver.torture.schedule import Event, Lane, Single

LEASE_SECONDS: Final = 3.0
# For so long a handler may hold up the event loop and lose nothing.
MAX_LOOP_BLOCK_SECONDS: Final = 7.0
CLOCK_OFFSET_SECONDS: Final = 3_600.0
# A key of Redis that tells whether it came back with its data.
KEPT: Final = "torture:kept"
BOTH: Final = frozenset({"postgresql", "embedded"})
POSTGRESQL: Final = frozenset({"postgresql"})

# Which processes it hit; None for all.
Pids = frozenset[int] | None
SubmitSingle = Callable[[Single, object], Awaitable[None]]


class NotInjected(Exception):
    """A fault did not do what its name says."""


class Stage(msgspec.Struct, frozen=True):
    """What faults act on. `submit_single` sends a job that is itself a fault."""

    engines: Engines
    processes: Processes
    submit_single: SubmitSingle


Apply = Callable[[Stage, Event], AbstractAsyncContextManager[Pids]]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds`: the shortest and longest time between apply and heal."""

    apply: Apply
    says: str
    seconds: tuple[float, float]
    explains: frozenset[str] = frozenset()
    pairs: frozenset[str] = BOTH
    lane: Lane = "others"


# Processes.


@asynccontextmanager
async def sigkill(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    pid = stage.processes.pid(event.slot)
    stage.processes.send(event.slot, signal.SIGKILL)
    yield frozenset({pid})
    await stage.processes.ready(event.slot)


@asynccontextmanager
async def sigstop(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    pid = stage.processes.pid(event.slot)
    stage.processes.send(event.slot, signal.SIGSTOP)
    try:
        yield frozenset({pid})
    finally:
        stage.processes.send(event.slot, signal.SIGCONT)


@asynccontextmanager
async def rolling(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    pids = stage.processes.pids()
    for slot in range(len(stage.processes.ports)):
        await stage.processes.restart(slot)
    yield pids


@asynccontextmanager
async def clock_offset(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    """Both restarts are graceful ones."""
    offset = CLOCK_OFFSET_SECONDS if event.ahead else -CLOCK_OFFSET_SECONDS
    before = stage.processes.pid(event.slot)
    await stage.processes.restart(event.slot, clock_offset_seconds=offset)
    moved = stage.processes.pid(event.slot)
    if abs(await stage.processes.clock(event.slot) - time.time() - offset) > CLOCK_OFFSET_SECONDS / 2:
        raise NotInjected("the server's clock is right")
    yield frozenset({before, moved})
    await stage.processes.restart(event.slot)


@asynccontextmanager
async def loop_block(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.submit_single("block", {"seconds": event.seconds})
    # Its own log tells which process it held up, and when.
    yield frozenset()


@asynccontextmanager
async def loop_hang(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.submit_single("hang", {"seconds": event.seconds})
    yield frozenset()


@asynccontextmanager
async def poison(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.submit_single("poison", None)
    yield frozenset()


# Redis.


@asynccontextmanager
async def flushall(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.engines.redis(("FLUSHALL",))
    yield None


@asynccontextmanager
async def script_flush(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.engines.redis(("SCRIPT", "FLUSH"))
    yield None


def _killed(*, empty: bool) -> Apply:
    @asynccontextmanager
    async def apply(stage: Stage, event: Event) -> AsyncIterator[Pids]:
        await stage.engines.redis(("SET", KEPT, "1", "EX", "600"))
        await stage.engines.kill_redis(empty=empty)
        try:
            yield None
        finally:
            await stage.engines.start_redis()
        [kept] = await stage.engines.redis(("EXISTS", KEPT))
        if bool(kept) == empty:
            raise NotInjected(f"Redis came back {'with' if kept else 'without'} its data")

    return apply


@asynccontextmanager
async def group_destroy(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    for key, group, _ in await _groups(stage.engines):
        await stage.engines.redis(("XGROUP", "DESTROY", key, group))
    yield None


@asynccontextmanager
async def delconsumer(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    for key, group, consumers in await _groups(stage.engines):
        for consumer in consumers:
            await stage.engines.redis(("XGROUP", "DELCONSUMER", key, group, consumer))
    yield None


@asynccontextmanager
async def client_kill(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    for kind in ("pubsub", "normal"):
        await stage.engines.redis(("CLIENT", "KILL", "TYPE", kind))
    yield None


@asynccontextmanager
async def client_pause(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.engines.redis(("CLIENT", "PAUSE", int(event.seconds * 1000), "ALL"))
    yield None


@asynccontextmanager
async def redis_full(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await stage.engines.redis(("CONFIG", "SET", "maxmemory", "1mb"))
    try:
        yield None
    finally:
        await stage.engines.redis(("CONFIG", "SET", "maxmemory", "0"))


async def _groups(engines: Engines) -> list[tuple[str, str, list[str]]]:
    """Every consumer group: its stream, its name, its consumers."""
    found = []
    for key in await streams_of(engines):
        with contextlib.suppress(RedisError):
            [groups] = await engines.redis(("XINFO", "GROUPS", key))
            for group in groups:
                name = fields(group)["name"]
                [consumers] = await engines.redis(("XINFO", "CONSUMERS", key, name))
                found.append((key, name, [fields(consumer)["name"] for consumer in consumers]))
    return found


async def streams_of(engines: Engines) -> list[str]:
    """The keys of all streams."""
    cursor, found = "0", set[str]()
    while True:
        [[cursor, keys]] = await engines.redis(("SCAN", cursor, "COUNT", 1000, "TYPE", "stream"))
        found.update(keys)
        if cursor == "0":
            return sorted(found)


def fields(flat: list[Any]) -> dict[str, Any]:
    """A map, as RESP2 writes it."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


# PostgreSQL.


@asynccontextmanager
async def pg_restart(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    postgres = _own(stage).postgres
    await postgres.crash()
    try:
        yield None
    finally:
        await postgres.recover()


@asynccontextmanager
async def pg_terminate(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    await _own(stage).postgres.terminate_backends()
    yield None


@asynccontextmanager
async def pg_pause(stage: Stage, event: Event) -> AsyncIterator[Pids]:
    postgres = _own(stage).postgres
    postgres.pause()
    try:
        yield None
    finally:
        postgres.resume()


# What lies between one process and one engine.


def _proxied(mode: Mode) -> Apply:
    @asynccontextmanager
    async def apply(stage: Stage, event: Event) -> AsyncIterator[Pids]:
        proxy = _own(stage).proxies[event.slot][event.engine]
        pid = stage.processes.pid(event.slot)
        proxy.set(mode)
        try:
            yield frozenset({pid})
        finally:
            proxy.set("pass")

    return apply


def _own(stage: Stage) -> OwnEngines:
    assert isinstance(stage.engines, OwnEngines)
    return stage.engines


_LOST: Final = frozenset({LEASE_LOST})
_DIED: Final = frozenset({LEASE_LOST, DEATH})
_STOPS: Final = frozenset({STOPPED, HANDED_BACK})

FAULTS: Final[Mapping[str, Fault]] = {
    "sigkill": Fault(
        apply=sigkill, says="SIGKILL of a server process", seconds=(0.5, 2.0), explains=_DIED | {CHILD_DEATH}
    ),
    "sigstop": Fault(
        apply=sigstop,
        says="SIGSTOP of a server process for longer than its lease, then SIGCONT",
        seconds=(LEASE_SECONDS + 1.0, LEASE_SECONDS + 4.0),
        # What its children said meanwhile, and the seconds of its handlers, are over when it wakes.
        explains=_LOST | {CHILD_DEATH},
    ),
    "rolling": Fault(
        apply=rolling,
        says="SIGTERM and restart of one process after the other",
        seconds=(0.0, 0.5),
        explains=_STOPS,
    ),
    "clock_offset": Fault(
        apply=clock_offset,
        says="a server process is started again with its clock an hour ahead or behind, and later with the right one",
        seconds=(LEASE_SECONDS, LEASE_SECONDS + 4.0),
        explains=_STOPS,
        # The clock of SQLite is that of the process.
        pairs=POSTGRESQL,
    ),
    "flushall": Fault(apply=flushall, says="Redis FLUSHALL", seconds=(0.0, 0.5), lane="redis"),
    "redis_kill": Fault(
        apply=_killed(empty=True), says="Redis killed, back with nothing", seconds=(0.5, 3.0), lane="redis"
    ),
    "redis_restart": Fault(
        apply=_killed(empty=False), says="Redis killed, back with its file", seconds=(0.5, 3.0), lane="redis"
    ),
    "script_flush": Fault(apply=script_flush, says="Redis SCRIPT FLUSH", seconds=(0.0, 0.5), lane="redis"),
    "group_destroy": Fault(apply=group_destroy, says="XGROUP DESTROY of every group", seconds=(0.0, 0.5), lane="redis"),
    "delconsumer": Fault(
        apply=delconsumer, says="XGROUP DELCONSUMER of every consumer", seconds=(0.0, 0.5), lane="redis"
    ),
    "client_kill": Fault(apply=client_kill, says="CLIENT KILL of every connection", seconds=(0.0, 0.5), lane="redis"),
    "client_pause": Fault(apply=client_pause, says="CLIENT PAUSE", seconds=(1.0, 4.0), lane="redis"),
    "redis_full": Fault(apply=redis_full, says="Redis memory full under noeviction", seconds=(1.0, 4.0), lane="redis"),
    "pg_restart": Fault(apply=pg_restart, says="PostgreSQL crashes and recovers", seconds=(0.5, 3.0), pairs=POSTGRESQL),
    "pg_terminate": Fault(
        apply=pg_terminate, says="pg_terminate_backend of every connection", seconds=(0.0, 0.5), pairs=POSTGRESQL
    ),
    "pg_pause": Fault(
        apply=pg_pause, says="PostgreSQL stopped for a while by SIGSTOP", seconds=(1.0, 6.0), pairs=POSTGRESQL
    ),
    "proxy_drop": Fault(
        apply=_proxied("drop"),
        says="replies of an engine to a process vanish after they were applied",
        seconds=(0.5, 4.0),
        explains=_LOST,
        pairs=POSTGRESQL,
    ),
    "proxy_cut": Fault(
        apply=_proxied("cut"),
        says="replies of an engine to a process end in the middle",
        seconds=(0.5, 4.0),
        explains=_LOST,
        pairs=POSTGRESQL,
    ),
    "proxy_reset": Fault(
        apply=_proxied("reset"),
        says="connections of a process to an engine are reset",
        seconds=(0.5, 4.0),
        explains=_LOST,
        pairs=POSTGRESQL,
    ),
    "proxy_blackhole": Fault(
        apply=_proxied("blackhole"),
        says="nothing passes between a process and an engine",
        seconds=(1.0, LEASE_SECONDS + 4.0),
        explains=_LOST,
        pairs=POSTGRESQL,
    ),
    "proxy_delay": Fault(
        apply=_proxied("delay"),
        says="everything between a process and an engine is late",
        seconds=(2.0, 5.0),
        explains=_LOST,
        pairs=POSTGRESQL,
    ),
    "loop_block": Fault(
        apply=loop_block,
        says="a handler blocks the event loop for longer than the lease",
        seconds=(LEASE_SECONDS + 1.0, LEASE_SECONDS + 2.0),
    ),
    "loop_hang": Fault(
        apply=loop_hang,
        says="a handler blocks the event loop for longer than --max-loop-block and the lease",
        seconds=(MAX_LOOP_BLOCK_SECONDS + LEASE_SECONDS + 1.0, MAX_LOOP_BLOCK_SECONDS + LEASE_SECONDS + 2.0),
        explains=_LOST,
    ),
    "poison": Fault(
        apply=poison,
        says="a handler kills its process",
        seconds=(1.0, 3.0),
        explains=_DIED | {CHILD_DEATH},
    ),
}


def explained_by(event: Event) -> frozenset[str]:
    """What a fault may be the cause of. The leases are in SQL: no trouble with Redis costs one."""
    if event.fault.startswith("proxy_") and event.engine == "redis":
        return frozenset()
    return FAULTS[event.fault].explains


def faults_of(pair: str) -> dict[str, Fault]:
    """Those that can happen to a pair of engines."""
    return {name: fault for name, fault in FAULTS.items() if pair in fault.pairs}


async def while_applied(stage: Stage, event: Event) -> Pids:
    """Apply, wait, heal. Returns which processes it hit."""
    async with FAULTS[event.fault].apply(stage, event) as pids:
        await asyncio.sleep(event.seconds)
    return pids
