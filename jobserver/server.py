"""The composition root: builds everything, and knows the one order of start and stop.

    engines -> schema -> store and stream -> upkeep's first beat -> pipeline -> upkeep -> HTTP

and back: not ready, consumers drained while heartbeats and HTTP go on, HTTP, what publishes,
batchers, the rest of upkeep, engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
import uvicorn

import jobserver
from jobserver.access import quota_of
from jobserver.builtin import builtin_handlers
from jobserver.builtin import reference as builtin_reference
from jobserver.builtin.callback import Callbacks
from jobserver.errors import ConfigurationError, DatabaseUnavailable, StreamUnavailable, Unavailable
from jobserver.http.api import Api, PageFacts
from jobserver.http.app import build_app
from jobserver.http.caller import with_mapped
from jobserver.http.listen import BACKLOG, listening
from jobserver.http.protocol import OneWriteProtocol
from jobserver.job.handlers import Handlers, load_handlers
from jobserver.job.lifecycle import Policy
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE
from jobserver.job.wire import Readiness
from jobserver.pipeline.activity import Activity
from jobserver.pipeline.announce import MAX_WAITING as MAX_EVENTS
from jobserver.pipeline.announce import Announcer
from jobserver.pipeline.audit import Audit
from jobserver.pipeline.commands import Commands
from jobserver.pipeline.consume import ConsumeOptions, Consumers
from jobserver.pipeline.deliver import MAX_WAITING, Deliveries
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.feed import Feed
from jobserver.pipeline.finish import Finisher
from jobserver.pipeline.gate import BACKLOG_SECONDS, Backlog, Gate, RateLimit
from jobserver.pipeline.held import Holdings
from jobserver.pipeline.keys import LOOK_SECONDS, Keys
from jobserver.pipeline.known import Queues, Types
from jobserver.pipeline.sessions import Sessions
from jobserver.pipeline.submit import SubmitOptions, Submitter
from jobserver.pipeline.waiting import Waiters
from jobserver.pipeline.why import Why
from jobserver.settings import Settings
from jobserver.store.access import AccessStore
from jobserver.store.engine import Database, check_reachable, database_url, durability_warnings, migrate
from jobserver.store.engine import schema_version as stored_version
from jobserver.store.jobs import JobStore
from jobserver.store.migrations import HEAD
from jobserver.store.secrets import SecretStore
from jobserver.store.views import Views
from jobserver.store.workers import WorkerStore
from jobserver.stream.activity import ActivityStream
from jobserver.stream.client import StreamClient
from jobserver.stream.client import check_reachable as check_stream
from jobserver.stream.events import EventStream
from jobserver.stream.jobs import JobStream
from jobserver.telemetry import Telemetry
from jobserver.telemetry.otel import Grace, Otel
from jobserver.telemetry.siblings import Siblings
from jobserver.upkeep.expire import Expire
from jobserver.upkeep.fingerprint import Fingerprint
from jobserver.upkeep.hear import Hear
from jobserver.upkeep.heartbeat import Heartbeat
from jobserver.upkeep.loop import Loop
from jobserver.upkeep.promote import Promote
from jobserver.upkeep.prune import Prune, Retention
from jobserver.upkeep.pulse import Identity
from jobserver.upkeep.reclaim import Reclaim
from jobserver.upkeep.reconcile import Reconcile
from jobserver.upkeep.sample import Sample
from jobserver.upkeep.tell import Tell
from jobserver.upkeep.watchdog import Watchdog

if TYPE_CHECKING:  # it imports the SDK, which is for those who have a collector
    from jobserver.telemetry.tracing import Tracing

HTTP_GRACE_SECONDS: Final = 5
HEALTH_SECONDS: Final = 1.0
# Connections that are accepted in one turn of the event loop.
ACCEPTS: Final = 32
HSTS: Final = ("strict-transport-security", "max-age=31536000")
# A process that was replaced is still heard by its clients for so long: longer than uvicorn keeps an idle connection.
LINGER_SECONDS: Final = 6.0
# Of a process that died, so many jobs run at once in children of their own, at about 6 MB each.
ISOLATED: Final = 128


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a person wants to know of a server that has started."""

    url: str | None
    data: str
    engines: tuple[str, str]
    consumers: int
    types: tuple[str, ...]
    warnings: tuple[str, ...]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process stands among those behind one port: see `cli/parent.py`, which owns the port and the folder."""

    number: int
    processes: int
    # Bound and listening; None without HTTP.
    listener: socket.socket | None
    # Private, for what they tell each other.
    folder: Path


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass of recovery mended."""

    reclaimed: int
    republished: int
    expired: int


class Engines(msgspec.Struct, frozen=True, kw_only=True):
    """The two engines of a process, reachable and with a current schema."""

    database: Database
    client: StreamClient
    versions: tuple[str, str]
    data: str
    # Nobody else can be using this database: its folder or file is locked by us.
    alone: bool


@asynccontextmanager
async def open_engines(
    settings: Settings, *, on_restart: Callable[[], None] | None = None, tracing: Tracing | None = None
) -> AsyncIterator[Engines]:
    """Start the embedded engines or reach the given ones, and bring the schema up to date.

    `on_restart` hears that an embedded Valkey died and was started again.

    Raises ConfigurationError with one sentence.
    """
    async with AsyncExitStack() as stack:
        if settings.database_url is None or settings.redis_url is None:
            # Imported on use: real engines do not need it, and it needs a Unix.
            from jobserver.embedded import EmbeddedEngines

            embedded = await stack.enter_async_context(EmbeddedEngines(settings.data_dir, on_restart=on_restart))
            sql_url, redis_url, data, alone = embedded.database_url, embedded.redis_url, str(embedded.folder), True
        else:
            sql_url, redis_url = settings.database_url, settings.redis_url
            url = database_url(sql_url)
            data, alone = url.render_as_string(hide_password=True), False
            if url.get_backend_name() == "sqlite":
                from jobserver.embedded import lock_database

                stack.callback(lock_database(url.database or "").close)
                alone = True
        versions = (await check_reachable(sql_url), await check_stream(redis_url))
        database = _database(sql_url, settings, tracing)
        stack.push_async_callback(database.close)
        if settings.migrate:
            await migrate(sql_url)
        elif (version := await stored_version(database)) != HEAD:
            raise ConfigurationError(
                f"The database has schema {version or 'none'}, this release needs {HEAD}: run jobserver migrate, "
                "or start without --no-migrate."
            )
        client = _client(redis_url, tracing)
        stack.push_async_callback(client.close)
        yield Engines(database=database, client=client, versions=versions, data=data, alone=alone)


def _database(url: str, settings: Settings, tracing: Tracing | None) -> Database:
    if tracing is None:
        return Database(url, pool_size=settings.pool_size)
    from jobserver.traced import TracedDatabase

    return TracedDatabase(url, pool_size=settings.pool_size, tracing=tracing)


def _client(url: str, tracing: Tracing | None) -> StreamClient:
    if tracing is None:
        return StreamClient(url)
    from jobserver.traced import TracedClient

    return TracedClient(url, tracing=tracing)


def _stream(client: StreamClient, prefix: str, tracing: Tracing | None) -> JobStream:
    if tracing is None:
        return JobStream(client, prefix)
    from jobserver.traced import TracedStream

    return TracedStream(client, prefix, tracing=tracing)


class Server:
    """One server process. `async with Server(settings) as server:` everything runs inside, in order."""

    def __init__(
        self,
        settings: Settings,
        *,
        handlers: Handlers | None = None,
        place: Place | None = None,
        otel: Otel | None = None,
    ) -> None:
        self.settings = settings
        self._place = place
        self.otel = otel
        self._handlers, self._references = _all_handlers(settings, handlers)
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._now = asyncio.Event()
        self._draining = False
        self._built = False
        self._retired_at: float | None = None
        self._http: _Uvicorn | None = None
        self._siblings: Siblings | None = None
        self._socket: socket.socket | None = None
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.url: str = ""
        self.facts: Facts
        self.tracing: Tracing | None = None
        self._grace = Grace()
        if otel is not None and otel.traces is not None:
            # Imported on use: without an endpoint nobody pays for the SDK.
            from jobserver.telemetry.tracing import Tracing

            self.tracing = Tracing(otel, self.worker_id, jobserver.__version__)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.__aexit__(None, None, None)

    async def serve(self) -> None:
        """Run until `stop` was called. Leaving the context drains."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Begin a graceful stop."""
        self._stopping.set()

    def stop_now(self) -> None:
        """Give up the drain: cancel what runs and hand it back."""
        self._stopping.set()
        self._now.set()

    def retire(self) -> None:
        """Begin a graceful stop in favour of a process that accepts from the same listener already."""
        if not self._stopping.is_set():
            self._retired_at = time.monotonic()
            self._stopping.set()

    @property
    def draining_jobs(self) -> int:
        """Jobs that a drain waits for."""
        return len(self.holdings)

    # start

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        if settings.http:
            # First of all: a port that is taken is said at once, before anything is touched.
            given = None if self._place is None else self._place.listener
            self._socket = given or listening(settings.host, settings.port)
            stack.callback(self._socket.close)
        from jobserver.embedded import is_new

        if settings.database_url is None and is_new(settings.data_dir):
            # There can be no key: said before anything is made.
            self._check_open(ever=False)
        if self.tracing is not None:
            # Ends after everything that has something to tell.
            stack.push_async_callback(self._grace.give, self.tracing.close)
        engines = await stack.enter_async_context(
            open_engines(settings, on_restart=self._redis_restarted, tracing=self.tracing)
        )
        self._build(engines)
        await self._look_at_keys(stack)
        await self.types.register()
        for info in self.types.own.values():
            self.telemetry.expect(info.type, info.queue)
        await self.queues.refresh()
        own = {info.queue for info in self.types.own.values()}
        await self.queues.ensure(own | set(settings.queues or ()) | {CALLBACK_QUEUE})
        await self.heartbeat.start()
        self.consumers.may_claim = self.heartbeat.pulse.may_claim
        stack.push_async_callback(self._close_upkeep)
        await self.hear.start()
        if engines.alone:
            # The lock of the folder proves that the predecessor is dead: its jobs need not wait for their leases.
            await self.reclaim.orphans()
        self._start_pipeline(stack)
        # Before the way to Redis is closed: what they publish then would be told by nobody.
        stack.push_async_callback(_close_loops, self._publishing, within_seconds=2.0)
        await stack.enter_async_context(self.executor)
        warnings = tuple(await durability_warnings(engines.database)) + self._open_warning()
        if (place := self._place) is not None:
            self._siblings = await stack.enter_async_context(
                Siblings(self.telemetry.metrics.registry, place.folder, number=place.number, processes=place.processes)
            )
        if self._socket is not None:
            await self._start_http(stack, self._socket)
        self._push(stack)
        # Last of all, so that nothing which fails to start drops a claimed job.
        stack.push_async_callback(self.consumers.close)
        self.consumers.start()
        stack.push_async_callback(self._drain)
        for loop in self._loops:
            loop.start()
        self.facts = Facts(
            url=self.url or None,
            data=engines.data,
            engines=engines.versions,
            consumers=settings.workers,
            types=tuple(sorted(self.types.own)),
            warnings=warnings,
        )
        self.telemetry.note("server_started", url=self.url, engines=list(engines.versions))

    async def _look_at_keys(self, stack: AsyncExitStack) -> None:
        """Before anything is served. Raises ConfigurationError."""
        await self.keys.look()
        self._check_open(ever=self.keys.ever)
        stack.push_async_callback(self.keys.close)

    def _check_open(self, *, ever: bool) -> None:
        """Open to everybody is for loopback alone. Raises ConfigurationError. `ever`: there is, or was, an API key."""
        if self.settings.beyond_loopback and not ever:
            raise ConfigurationError(
                f"Everything is open to whoever reaches {self.settings.host} while there is no API key: make one by "
                "jobserver keys create NAME --scope admin, listen on 127.0.0.1, or say --allow-anonymous if that "
                "is meant."
            )

    def _open_warning(self) -> tuple[str, ...]:
        if not self.settings.http or self.keys.ever or self.settings.on_loopback:
            return ()
        return (f"everything is open to whoever reaches {self.settings.host}: there is no API key",)

    def _build(self, engines: Engines) -> None:
        """Everything, put together; nothing runs yet."""
        settings = self.settings
        database = engines.database
        self.telemetry = Telemetry(jobserver.__version__, self.worker_id, self.tracing)
        observe = self.telemetry.flushed
        policy = Policy(
            backoff_base=settings.backoff_base, backoff_cap=settings.backoff_cap, max_crashes=settings.max_crashes
        )
        self.store = JobStore(
            database, idempotency_ttl_seconds=settings.idempotency_ttl, callback_retries=settings.callback_retries
        )
        self.views = Views(database)
        self.worker_store = WorkerStore(database)
        self.access_store = AccessStore(database)
        self.keys = Keys(self.access_store, self.telemetry)
        self.audit = Audit(self.access_store, self.telemetry)
        self.sessions = Sessions(self.keys, self.audit, self.telemetry)
        self.stream = _stream(engines.client, settings.redis_prefix, self.tracing)
        if self.tracing is not None:
            self.tracing.history = self.views.attempts
        self._client = engines.client
        # A process without consumers handles nothing, and says so.
        own = self._handlers if settings.workers else Handlers()
        self.types = Types(self.store, own, max_retries=settings.max_retries, timeout_seconds=settings.timeout)
        self.queues = Queues(self.store, settings.queues)
        self.holdings = Holdings()
        self.waiters = Waiters(self.views)
        events = EventStream(engines.client, settings.redis_prefix) if settings.events_max else None
        self.feed = Feed(events, self.waiters, self.telemetry)
        self.announcer: Announcer | None = None
        if settings.events_max:
            self.announcer = Announcer(
                self.worker_id, settings.events_max, database.clock.now_us, on_lost=self.telemetry.events_lost
            )
        self.deliveries = Deliveries(
            self.stream,
            database.clock.now_us,
            on_dropped=self.telemetry.dropped,
            observe=observe,
            announcer=self.announcer,
        )
        self.submitter = Submitter(
            self.store,
            self.deliveries,
            self.types,
            self.queues,
            SubmitOptions(
                max_retries=settings.max_retries,
                timeout_seconds=settings.timeout,
                max_payload_bytes=settings.max_payload_bytes,
                accept_unknown_types=settings.accept_unknown_types or settings.workers == 0,
                allow_private_targets=settings.allow_private_targets,
            ),
            self.telemetry,
            observe=observe,
        )
        callbacks = Callbacks(
            SecretStore(database).signing,
            self.telemetry,
            allow_private_targets=settings.allow_private_targets,
            backoff_base=settings.backoff_base,
        )
        # Beside the registry of types: nobody submits it.
        runnable = callbacks.handlers()
        runnable.include(self._handlers)
        self.executor = Executor(
            runnable,
            ExecutorOptions(
                threads=settings.threads,
                processes=settings.process_pool,
                isolated=min(max(1, settings.workers), ISOLATED),
                thread_grace_seconds=settings.thread_grace,
                max_result_bytes=settings.max_result_bytes,
                references=self._references,
                child_setup="jobserver.telemetry.child:set_up",
                child_setup_arguments={
                    "format_": settings.log_format,
                    "level": settings.log_level,
                    "instance": None if self.tracing is None else self.worker_id,
                    "version": jobserver.__version__,
                },
            ),
            report_progress=self.holdings.said,
            on_abandoned=self.telemetry.abandoned,
            spans=self.tracing,
        )
        self.finisher = Finisher(self.store, self.deliveries, self.waiters, policy, self.telemetry, observe=observe)
        self.consumers = Consumers(
            self.store,
            self.stream,
            self.deliveries,
            self.executor,
            self.finisher,
            self.holdings,
            self.queues,
            ConsumeOptions(workers=settings.workers, worker_id=self.worker_id, lease_seconds=settings.lease_seconds),
            self.telemetry,
            observe=observe,
        )
        self.heartbeat = Heartbeat(
            database,
            self.holdings,
            Identity(
                worker_id=self.worker_id,
                version=jobserver.__version__,
                concurrency=settings.workers,
                queues=settings.queues,
                types=tuple(sorted(self.types.own)),
            ),
            self.telemetry,
            lease_seconds=settings.lease_seconds,
            max_loop_block_seconds=settings.max_loop_block,
            job_of=self.executor.job_of,
        )
        self.hear = Hear(
            self.store,
            self.stream,
            self.holdings,
            self.queues,
            self.types,
            worker_id=self.worker_id,
            announcer=self.announcer,
        )
        self.promote = Promote(self.store, self.stream, self.deliveries, self.queues)
        self.deliveries.on_delay = self.promote.hear
        self.reconcile = Reconcile(
            self.store,
            self.stream,
            self.deliveries,
            self.queues,
            self.telemetry,
            on_wiped=self.promote.refill_all,
        )
        self.consumers.on_wiped = self.reconcile.loop.wake
        self.reclaim = Reclaim(
            self.store,
            self.worker_store,
            self.stream,
            self.deliveries,
            self.waiters,
            self.queues,
            self.consumers if settings.workers else None,
            self.holdings,
            policy,
            self.telemetry,
            worker_id=self.worker_id,
            lease_seconds=settings.lease_seconds,
            may_reclaim=self.heartbeat.pulse.may_reclaim,
            may_judge=self.heartbeat.pulse.may_judge,
        )
        self.expire = Expire(self.store, self.deliveries, self.waiters, self.telemetry)
        self.fingerprint = Fingerprint(self.store)
        self.prune = Prune(
            self.store,
            self.worker_store,
            self.access_store,
            Retention(
                completed_seconds=settings.retention,
                failed_seconds=settings.retention_failed,
                audit_seconds=settings.retention_audit,
            ),
        )
        self.watchdog = Watchdog(
            self.store,
            engines.client,
            self.consumers,
            self.queues,
            self.types.own,
            self.telemetry,
            on_rebuilt=self.reconcile.resumed,
        )
        self.sample = Sample(self.views, self.stream, self.queues, self.telemetry)
        activity = ActivityStream(engines.client, settings.redis_prefix)
        self.tell = Tell(activity, self.telemetry.metrics, self.worker_id, database.clock.now_us)
        self.activity = Activity(activity, database.clock.now_us)
        self.why = Why(self.views, self.activity, engines.client.ping, database.clock.now)
        self.commands = Commands(
            self.store,
            self.views,
            self.stream,
            self.deliveries,
            self.holdings,
            self.waiters,
            self.queues,
            self.telemetry,
            resumed=self.reconcile.resumed,
        )
        backlog = None if settings.max_waiting is None else Backlog(self.views, settings.max_waiting)
        self.gate = Gate(self.submitter, self.telemetry, backlog=backlog, limit=self._rate_limit(engines.client))
        self._publishing = (
            self.promote.loop,
            self.reconcile.loop,
            self.reclaim.deaths,
            self.reclaim.jobs,
            self.reclaim.messages,
            self.expire.loop,
        )
        self._loops = (
            *(() if backlog is None else (Loop("count the backlog", BACKLOG_SECONDS, backlog.step),)),
            Loop("look at keys", LOOK_SECONDS, self.keys.step),
            *self._publishing,
            self.prune.loop,
            self.prune.fold,
            self.fingerprint.loop,
            self.sample.loop,
            self.watchdog.loop,
            self.tell.loop,
        )
        self._own_gauges(database)
        self._built = True

    def _rate_limit(self, client: StreamClient) -> RateLimit | None:
        if self.settings.rate_limit is None:
            return None
        # Imported on use: few servers limit, and its library takes a while to load.
        from jobserver.stream.limits import SharedLimit

        quota = quota_of(self.settings.rate_limit)
        shared = SharedLimit(client, self.settings.redis_prefix, quota)
        return RateLimit(quota, shared, self.telemetry, processes=lambda: self.sample.processes)

    def _redis_restarted(self) -> None:
        """The embedded Valkey may have lost its last second of writes."""
        if self._built:
            self.reconcile.resumed()

    def _own_gauges(self, database: Database) -> None:
        metrics = self.telemetry.metrics
        metrics.gauge("api_keys", "API keys that are not revoked.", lambda: self.keys.count)
        metrics.gauge("consumers", "Consumers of this process.", lambda: self.settings.workers)
        metrics.gauge("consumers_busy", "Consumers with a job.", lambda: self.consumers.busy)
        metrics.gauge("event_loop_lag_seconds", "Lateness of the event loop.", lambda: self.heartbeat.loop_lag_seconds)
        metrics.gauge("event_readers", "Streams of live events that are open.", lambda: self.feed.readers)
        metrics.gauge("database_connections_used", "Connections in use.", database.pool_use)
        metrics.gauge("database_connections_limit", "Connections that may be open.", database.pool_limit)
        buffers = self._buffers
        metrics.gauges(
            "buffer_items", "What waits in memory.", ("buffer",), lambda: [((name,), n) for name, n, _ in buffers()]
        )
        metrics.gauges(
            "buffer_bound",
            "How much may wait.",
            ("buffer",),
            lambda: [((name,), bound) for name, _, bound in buffers()],
        )

    def _buffers(self) -> tuple[tuple[str, int, int], ...]:
        """The in-memory queues: name, what waits, and its bound in the same unit."""
        submits, claims = self.submitter.batcher, self.consumers.claims
        return (
            ("submit", submits.waiting_weight, submits.max_waiting),
            ("claim", claims.waiting_weight, claims.max_waiting),
            # Each consumer has one end at the most.
            ("finish", self.finisher.batcher.waiting, self.settings.workers),
            ("deliveries", self.deliveries.waiting, MAX_WAITING),
            ("events", 0 if self.announcer is None else self.announcer.waiting, MAX_EVENTS),
        )

    def _start_pipeline(self, stack: AsyncExitStack) -> None:
        self.deliveries.start()
        stack.push_async_callback(self.deliveries.close)
        self.finisher.batcher.start()
        stack.push_async_callback(self.finisher.batcher.close)
        self.submitter.batcher.start()
        stack.push_async_callback(self.submitter.close)

    def _push(self, stack: AsyncExitStack) -> None:
        """Begin to push metrics and logs, where that was asked for."""
        otel = self.otel
        if otel is None or (otel.metrics is None and otel.logs is None):
            return
        # Imported on use, as the SDK for traces is.
        from jobserver.telemetry.pushing import LogPush, MetricsPush

        version = jobserver.__version__
        if otel.logs is not None:
            logs = LogPush(otel, self.worker_id, version)
            logging.getLogger().addHandler(logs)
            stack.push_async_callback(self._grace.give, logs.end)
        if otel.metrics is not None:
            push = MetricsPush(self.telemetry.metrics.registry, otel, self.worker_id, version)
            loop = Loop("push metrics", push.interval_seconds, push.step)
            stack.push_async_callback(self._grace.give, push.close)
            stack.push_async_callback(self._grace.give, loop.close)
            loop.start()

    async def _start_http(self, stack: AsyncExitStack, bound: socket.socket) -> None:
        app = build_app(
            Api(
                submitter=self.submitter,
                commands=self.commands,
                views=self.views,
                health=self,
                access=self.keys,
                sessions=self.sessions,
                audit=self.audit,
                gate=self.gate,
                metrics=self._metrics,
                tracing=self.tracing,
                feed=self.feed,
                facts=PageFacts(
                    version=jobserver.__version__,
                    trace_url_template=self.settings.trace_url_template,
                    max_payload_bytes=self.settings.max_payload_bytes,
                ),
                activity=self.activity,
                why=self.why,
            ),
            self.settings,
        )
        http = self._http = _Uvicorn(_http_config(app, self.settings, self.gate, self.keys))
        # Each is a listener of its own to the loop: uvloop accepts one connection of each in a turn, and a loaded
        # server has few turns, so that new clients would wait for seconds before anybody reads what they ask.
        sockets = [bound, *(bound.dup() for _ in range(ACCEPTS - 1))]
        task = asyncio.create_task(http.serve(sockets=sockets), name="http")

        async def close() -> None:
            await self.waiters.close()
            await self.feed.close()
            if self._retired_at is not None:
                await http.left(within_seconds=self._retired_at + LINGER_SECONDS - time.monotonic())
            http.should_exit = True
            await task

        stack.push_async_callback(close)
        # A server that nobody can reach is of no use: one that ends by itself stops the process.
        task.add_done_callback(lambda _: self.stop())
        while not http.started:
            if task.done():
                await task
                raise ConfigurationError("The HTTP server did not start.")
            await asyncio.sleep(0.005)
        host, port = bound.getsockname()[:2]
        scheme = "http" if self.settings.tls_certificate is None else "https"
        self.url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    # stop

    async def _drain(self) -> None:
        """Not ready any more; wait for what runs, hand back the rest. Heartbeats and HTTP go on meanwhile."""
        self._draining = True
        self.heartbeat.drain()
        if self._retired_at is not None:
            if self._siblings is not None:
                self._siblings.replaced = True
            if self._http is not None:
                self._http.retire()
        self.telemetry.note("server_draining", jobs=len(self.holdings))
        drain = asyncio.create_task(self.consumers.drain(within_seconds=self.settings.drain_seconds), name="drain")
        hurry = asyncio.create_task(self._now.wait(), name="hurry")
        await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            self.consumers.hurry()
        await drain
        hurry.cancel()
        await asyncio.gather(hurry, return_exceptions=True)

    async def _close_upkeep(self) -> None:
        await asyncio.gather(self.hear.close(), self.tell.close(), self.activity.close(), _close_loops(self._loops))
        await self.heartbeat.close()
        self.telemetry.note("server_stopped")

    # metrics and health

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        if self._siblings is not None:
            return await self._siblings.page(accept)
        return self.telemetry.metrics.render(accept)

    async def ready(self) -> Readiness:
        """Whether to send requests here; answers within a second."""
        database, stream = await asyncio.gather(
            _answers(self.worker_store.alive(within_seconds=1.0)), _answers(self._client.ping())
        )
        # A full disk can be read, and is as good as a database that is gone.
        database = database and not self.store.database.refuses_writes
        working: Literal["ok", "degraded"] = "ok" if stream else "degraded"
        return Readiness(
            status=working if database and not self._draining else "unavailable",
            database="ok" if database else "down",
            redis="ok" if stream else "down",
            draining=self._draining,
        )


async def _close_loops(loops: Iterable[Loop], *, within_seconds: float = 5.0) -> None:
    await asyncio.gather(*(loop.close(within_seconds=within_seconds) for loop in loops))


async def recover(settings: Settings) -> Recovered:
    """One pass of reclaim, expire and reconcile, without consumers or HTTP. Says what it mended."""
    quiet = msgspec.structs.replace(settings, http=True, workers=0)
    server = Server(quiet)
    async with AsyncExitStack() as stack:
        engines = await stack.enter_async_context(open_engines(quiet))
        server._build(engines)
        server.deliveries.start()
        stack.push_async_callback(server.deliveries.close, within_seconds=10.0)
        await server.worker_store.measure_clock()
        await server.queues.refresh()
        await server.queues.ensure([CALLBACK_QUEUE])
        reclaimed = await server.reclaim.orphans() if engines.alone else 0
        while taken := await server.reclaim.lost_jobs():
            reclaimed += taken
        expired = 0
        while failed := await server.expire.step():
            expired += failed
        server.promote.refill_all()
        republished = await server.reconcile.pass_over()
        return Recovered(reclaimed=reclaimed, republished=republished, expired=expired)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own handling of signals: the edge decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def retire(self) -> None:
        """Accept no more connections, and ask the clients of those that there are to make new ones."""
        for server in self.servers:
            server.close()
        self.config.encoded_headers = [*self.config.encoded_headers, (b"connection", b"close")]
        # For the next request of each connection, not only from uvicorn's next tick on.
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def left(self, *, within_seconds: float) -> None:
        """Return when every client has gone, or after that time."""
        deadline = time.monotonic() + within_seconds
        # uvicorn has no event for it, and looks like this itself.
        while self.server_state.connections and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def _http_config(app: Any, settings: Settings, gate: Gate, keys: Keys) -> uvicorn.Config:
    """Raises ConfigurationError for a certificate or a key that cannot be used."""
    tls = settings.tls_certificate is not None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http=OneWriteProtocol.with_gate(gate, keys),
        # What anybody else says of its clients is nobody's business here, and costs each request a look.
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=with_mapped(settings.trusted_proxies or ()),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        # Where others reach it by name; on loopback it would bind every server of this machine.
        headers=[HSTS] if tls and not settings.on_loopback else None,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_graceful_shutdown=HTTP_GRACE_SECONDS,
    )
    try:
        config.load()
    except OSError as error:
        # ssl's errors are OSErrors too.
        raise ConfigurationError(
            f"{settings.tls_certificate} and {settings.tls_key} cannot be used for TLS: {error.strerror or error}."
        ) from error
    return config


def _all_handlers(settings: Settings, given: Handlers | None) -> tuple[Handlers, tuple[str, ...]]:
    """One's own handlers and the built-in ones, and where child processes import them from."""
    builtin = builtin_reference(allow_private_targets=settings.allow_private_targets)
    handlers = Handlers()
    references: tuple[str, ...] = (builtin,)
    if settings.handlers is not None:
        handlers.include(load_handlers(settings.handlers))
        references = (settings.handlers, builtin)
    if given is not None:
        handlers.include(given)
        # Handlers that no module names cannot be imported by a child.
        references = ()
    if CALLBACK in handlers:
        raise ConfigurationError(f"The type {CALLBACK!r} is reserved for what tells a callback_url.")
    handlers.include_missing(builtin_handlers(allow_private_targets=settings.allow_private_targets))
    return handlers, references


async def _answers(question: Any) -> bool:
    started = time.monotonic()
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            await question
    except (Unavailable, DatabaseUnavailable, StreamUnavailable, TimeoutError):
        return False
    return time.monotonic() - started < HEALTH_SECONDS
