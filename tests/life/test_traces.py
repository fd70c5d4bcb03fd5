"""Traces of real servers, by a real exporter and a real collector, as they arrive behind it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest

from tests.collector import Collector, Link, Sink, Span, collector
from tests.engines import EngineMissingError, eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess

TRACED: Final = "tests.life.handlers_traced:handlers"
TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CALLER: Final = "b7ad6b7169203331"
PARENT: Final = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED: Final = f"00-{TRACE}-{CALLER}-00"


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[Collector, Sink]]:
    try:
        with collector() as found:
            yield found
    except EngineMissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def sink(behind: tuple[Collector, Sink]) -> Sink:
    for kept in (behind[1].spans, behind[1].metrics, behind[1].logs, behind[1].latest):
        kept.clear()
    return behind[1]


def tree(spans: Sequence[Span], parent: str | None, *, below: str = "") -> list[str]:
    """The spans below a span, one a line, indented."""
    lines = []
    for span in spans:
        if span.parent_id == parent:
            lines.append(f"{below}{span.name} {span.kind} {span.status}")
            lines += tree(spans, span.span_id, below=below + "  ")
    return lines


def links_to(span: Span) -> list[str]:
    return [link.span_id for link in span.links]


async def settled(sink: Sink, trace_id: str, spans: int) -> list[Span]:
    """The spans of a trace, as soon as so many have arrived."""
    return await eventually(lambda: found if len(found := sink.of_trace(trace_id)) >= spans else None, within=20)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_job_that_fails_and_loses_its_lease_is_one_trace(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink, notes: Notes, protocol: str
) -> None:
    variables = behind[0].variables(protocol)
    arguments = ("--workers", "4", "--backoff-base", "1", "--backoff-cap", "0.1")
    first = await fleet(*arguments, handlers=TRACED, **variables)
    answer = await first.http.post(
        "/jobs",
        json={"type": "stumbles", "payload": {"file": str(notes.file)}, "queue": "mail"},
        headers={"traceparent": PARENT, "tracestate": "congo=t61rcWkgMzE"},
    )
    job_id = answer.json()["id"]
    assert answer.json()["trace_id"] == TRACE
    await eventually(lambda: len(notes.of(job_id)) == 3)
    # What the first process has to tell of its attempts so far: the request, its creation, and what the handler did.
    await settled(sink, TRACE, 3 + 2 + 3 * 2)
    second = await fleet(*arguments, handlers=TRACED, **variables)
    first.kill()
    job = await second.finished(job_id, within=40)
    assert (job["status"], job["attempt"], job["retry_count"], job["crashes"]) == ("completed", 4, 2, 1)
    assert (await second.outcomes(job_id)) == ["retrying", "retrying", "lease_lost", "completed"]
    assert second.pid not in {note["pid"] for note in notes.of(job_id)[:3]}

    spans = await settled(sink, TRACE, 15)
    assert tree(spans, CALLER) == [
        "POST /jobs SERVER UNSET",
        # The first job of its queue.
        "  add_queue CLIENT UNSET",
        "  create mail PRODUCER UNSET",
        "    process mail CONSUMER ERROR",
        "      work INTERNAL UNSET",
        "        inner work INTERNAL UNSET",
        "    process mail CONSUMER ERROR",
        "      work INTERNAL UNSET",
        "        inner work INTERNAL UNSET",
        "    process mail CONSUMER ERROR",
        "      work INTERNAL UNSET",
        "        inner work INTERNAL UNSET",
        "    process mail CONSUMER UNSET",
        "      work INTERNAL UNSET",
        "        inner work INTERNAL UNSET",
    ]
    # No orphan, and no id twice.
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans) == 15
    assert {span.parent_id for span in spans} <= ids | {CALLER}
    assert {span.state for span in spans} == {"congo=t61rcWkgMzE"}

    server, added, create = spans[:3]
    assert (added.attributes["db.system.name"], added.attributes["db.query.summary"]) == ("postgresql", "add_queue")
    assert {name: server.attributes[name] for name in ("http.route", "http.response.status_code")} == {
        "http.route": "/jobs",
        "http.response.status_code": 201,
    }
    assert server.resource["service.name"] == "jobserver"
    assert create.attributes["messaging.operation.type"] == "create"
    attempts = [span for span in spans if span.kind == "CONSUMER"]
    assert [links_to(span) for span in attempts] == [[], *([span.span_id] for span in attempts[:3])]
    assert [span.attributes["jobserver.job.outcome"] for span in attempts] == [
        "retrying",
        "retrying",
        "lease_lost",
        "completed",
    ]
    assert [span.attributes["jobserver.job.fence"] for span in attempts] == [1, 3, 5, 7]
    assert [span.attributes["jobserver.job.attempt"] for span in attempts] == [1, 2, 3, 4]
    assert [span.attributes.get("error.type") for span in attempts] == ["RuntimeError"] * 2 + ["LeaseLost", None]
    assert {span.attributes["messaging.destination.name"] for span in attempts} == {"mail"}
    assert {span.attributes["messaging.message.id"] for span in attempts} == {job_id}
    assert {span.attributes["jobserver.job.type"] for span in attempts} == {"stumbles"}
    assert attempts[0].event("exception").attributes["exception.message"] == "fence 1"
    assert attempts[0].event("settled").attributes["jobserver.job.status"] == "retrying"
    assert attempts[2].event("lease lost")
    assert attempts[3].event("queue wait").attributes["jobserver.wait.seconds"] >= 0
    # The attempt that nobody could end is told by who took the job back.
    assert attempts[2].resource["service.instance.id"] == attempts[3].resource["service.instance.id"]
    assert attempts[1].resource["service.instance.id"] != attempts[3].resource["service.instance.id"]
    # What the handler passes on hangs below its attempt.
    assert job["result"].startswith(f"00-{TRACE}-{attempts[3].span_id}-01")

    # Batches have traces of their own, which lead here.
    created, tried = create.span_id, {"claim": 4, "settle": 3, "send": 1, "insert": 1}
    for name, least in tried.items():
        batches = [span for span in sink.named(name) if span.kind == "CLIENT" and "messaging.system" in span.attributes]
        assert len(batches) >= least, name
        for batch in batches:
            assert (batch.parent_id, batch.kind) == (None, "CLIENT")
            assert batch.trace_id != TRACE
            assert {(link.trace_id, link.span_id) for link in batch.links} == {(TRACE, created)}
            assert len(batch.links) <= 128
    claims = [span for span in sink.named("claim") if span.attributes.get("db.system.name") == "postgresql"]
    assert {span.parent_id for span in claims} <= {span.span_id for span in sink.spans}
    assert {span.attributes["db.system.name"] for span in sink.named("apply")} == {"redis"}
    # What is exported says nothing that is secret.
    assert await second.stop() == 0


@pytest.mark.parametrize("type_", ["says.context", "says.context.thread", "says.context.process"])
async def test_what_a_handler_does_hangs_below_its_attempt(
    anywhere: Serve, behind: tuple[Collector, Sink], sink: Sink, type_: str
) -> None:
    server = await anywhere(handlers=TRACED, **behind[0].variables())
    job = await server.finished(await server.submit(type_))
    assert job["result"]["trace_id"] == job["trace_id"]
    spans = await settled(sink, job["trace_id"], 4)
    assert tree(spans, None) == [
        "POST /jobs SERVER UNSET",
        "  create default PRODUCER UNSET",
        "    process default CONSUMER UNSET",
        "      work INTERNAL UNSET",
    ]
    if type_ == "says.context":
        attempt = spans[2]
        assert attempt.attributes["said.by"] == "handler"
        assert job["result"] == {
            "span_id": attempt.span_id,
            "trace_id": job["trace_id"],
            "recording": True,
            "passes_on": f"00-{job['trace_id']}-{attempt.span_id}-01",
        }
    assert await server.stop() == 0


async def test_a_trace_that_its_caller_does_not_record_has_no_span(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink
) -> None:
    server = await fleet(handlers=TRACED, **behind[0].variables())
    answer = await server.http.post("/jobs", json={"type": "says.context"}, headers={"traceparent": UNSAMPLED})
    job = await server.finished(answer.json()["id"])
    assert job["trace_id"] == TRACE
    assert job["result"] == {"span_id": CALLER, "trace_id": TRACE, "recording": False, "passes_on": UNSAMPLED}
    # One that is recorded, behind it.
    other = await server.finished(await server.submit("says.context"))
    await settled(sink, other["trace_id"], 4)
    assert sink.of_trace(TRACE) == []
    batches = [link for span in sink.spans for link in span.links]
    assert {link.trace_id for link in batches} == {other["trace_id"]}
    assert await server.stop() == 0


async def test_snoozes_and_replays_are_seen(fleet: Serve, behind: tuple[Collector, Sink], sink: Sink) -> None:
    server = await fleet(handlers=TRACED, **behind[0].variables())
    job_id = await server.submit("snoozes", max_retries=0)
    job = await server.finished(job_id)
    assert job["status"] == "failed"
    assert (await server.http.post(f"/jobs/{job_id}/retry")).status_code == 200
    job = await server.finished(job_id)
    assert job["status"] == "completed"
    # The request, its creation, three attempts and the replay.
    spans = await settled(sink, job["trace_id"], 6)
    attempts = [span for span in spans if span.kind == "CONSUMER"]
    assert [span.attributes["jobserver.job.outcome"] for span in attempts] == ["snoozed", "failed", "completed"]
    assert [span.status for span in attempts] == ["UNSET", "ERROR", "UNSET"]
    assert attempts[0].event("settled").attributes["jobserver.job.status"] == "scheduled"
    assert [span.links for span in attempts] == [
        (),
        (Link(job["trace_id"], attempts[0].span_id, {"jobserver.job.outcome": "snoozed"}),),
        (Link(job["trace_id"], attempts[1].span_id, {"jobserver.job.outcome": "failed"}),),
    ]
    assert "replayed" in [event.name for event in attempts[2].events]
    assert "replayed" not in [event.name for event in attempts[1].events]
    [replay] = [span for span in spans if span.name == "replay default"]
    [request] = sink.named("POST /jobs/{job_id}/retry")
    assert (replay.parent_id, links_to(replay)) == (attempts[0].parent_id, [request.span_id])
    assert await server.stop() == 0


async def test_a_replay_of_many_is_seen_in_the_trace_of_each(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink
) -> None:
    server = await fleet(handlers=TRACED, **behind[0].variables())
    ids = await server.submit_all([{"type": "fail", "payload": {"retryable": False}}] * 3)
    traces = {job["trace_id"] for job in await server.all_finished(ids)}
    answer = await server.http.post("/dlq/replay", json={"type": "fail"})
    assert sorted(answer.json()["ids"]) == sorted(ids)

    # The creation, two attempts and the replay between them.
    for trace_id in traces:
        spans = await settled(sink, trace_id, 4)
        create, first, replay, second = (span.name for span in spans)
        assert (create, first, replay, second) == (
            "create default",
            "process default",
            "replay default",
            "process default",
        )
        assert spans[2].parent_id == spans[0].span_id
        assert (spans[2].attributes["jobserver.job.fence"], spans[3].attributes["jobserver.job.fence"]) == (3, 4)
    [request] = await eventually(lambda: sink.named("POST /dlq/replay"))
    assert {links_to(span)[0] for span in sink.named("replay default")} == {request.span_id}
    # The messages of the second life lead to the same creations.
    created = {span.span_id for span in sink.named("create default")}

    def sent() -> bool:
        later = [span for span in sink.named("send") if span.start_ns > request.start_ns]
        return {link.span_id for span in later for link in span.links} == created

    await eventually(sent)
    assert await server.stop() == 0


async def test_a_timeout_and_a_cancel_request_are_events(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink, notes: Notes
) -> None:
    server = await fleet(handlers=TRACED, **behind[0].variables())
    late = await server.finished(await server.submit("gated", notes.gated, timeout=0.1, max_retries=0))
    canceled_id = await server.submit("gated", notes.gated)
    await eventually(lambda: notes.events(canceled_id) == ["started"])
    assert (await server.http.post(f"/jobs/{canceled_id}/cancel")).status_code == 202
    canceled = await server.finished(canceled_id)
    for job, event, outcome, status in (
        (late, "timeout", "failed", "ERROR"),
        (canceled, "cancel request", "canceled", "UNSET"),
    ):

        def ended(trace_id: str = job["trace_id"]) -> Span | None:
            return next((span for span in sink.of_trace(trace_id) if span.kind == "CONSUMER"), None)

        attempt = await eventually(ended)
        assert attempt is not None
        assert (attempt.attributes["jobserver.job.outcome"], attempt.status) == (outcome, status)
        assert attempt.start_ns <= attempt.event(event).at_ns <= attempt.end_ns
    assert await server.stop() == 0


async def test_a_batch_gives_each_job_a_trace_of_its_own_unless_its_caller_has_one(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink
) -> None:
    server = await fleet(handlers=TRACED, **behind[0].variables())
    jobs = await server.all_finished(await server.submit_all([{"type": "echo"}, {"type": "echo"}]))
    assert jobs[0]["trace_id"] != jobs[1]["trace_id"]
    [request] = await eventually(lambda: sink.named("POST /jobs/batch"))
    for job in jobs:
        spans = await settled(sink, job["trace_id"], 2)
        assert tree(spans, None) == ["create default PRODUCER UNSET", "  process default CONSUMER UNSET"]
        assert links_to(spans[0]) == [request.span_id]
    answer = await server.http.post(
        "/jobs/batch", json={"jobs": [{"type": "echo"}] * 2}, headers={"traceparent": PARENT}
    )
    await server.all_finished([item["id"] for item in answer.json()["jobs"]])
    spans = await settled(sink, TRACE, 5)
    assert tree(spans, CALLER)[0] == "POST /jobs/batch SERVER UNSET"
    assert sorted(span.name for span in spans) == sorted(
        ["POST /jobs/batch", *["create default", "process default"] * 2]
    )
    assert await server.stop() == 0


async def test_the_sampler_decides_once_for_a_whole_trace(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink
) -> None:
    sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.3"}
    server = await fleet(handlers=TRACED, **behind[0].variables(), **sampler)
    jobs = await server.all_finished(await server.submit_all([{"type": "says.context"}] * 200))
    bound = round(0.3 * (1 << 64))
    recorded = {job["trace_id"] for job in jobs if int(job["trace_id"][16:], 16) < bound}
    assert {job["trace_id"] for job in jobs if job["result"]["recording"]} == recorded
    assert 20 < len(recorded) < 120

    def arrived() -> bool:
        kinds = [(span.trace_id, span.name) for span in list(sink.spans) if span.parent_id or span.kind == "PRODUCER"]
        own = {each for each in kinds if each[0] in {job["trace_id"] for job in jobs}}
        return own == {
            (trace_id, name) for trace_id in recorded for name in ("create default", "process default", "work")
        }

    await eventually(arrived)
    assert await server.stop() == 0


async def test_what_waits_is_exported_at_the_end(fleet: Serve, behind: tuple[Collector, Sink], sink: Sink) -> None:
    variables: dict[str, Any] = {**behind[0].variables(), "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    server = await fleet(handlers=TRACED, **variables)
    job = await server.finished(await server.submit("says.context"))
    await asyncio.sleep(0.3)
    assert sink.of_trace(job["trace_id"]) == []
    assert await server.stop() == 0
    assert len(await settled(sink, job["trace_id"], 4)) == 4


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_metrics_and_logs_are_pushed_when_asked_for(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink, protocol: str
) -> None:
    push = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
    server = await fleet(handlers=TRACED, **behind[0].variables(protocol), **push)
    job = await server.finished(await server.submit("says.context"))

    def pushed(name: str) -> Any:
        return next((metric for metric in reversed(list(sink.metrics)) if metric.name == name), None)

    def labels(point: Any) -> dict[str, str]:
        return {pair.key: pair.value.string_value for pair in point.attributes}

    def counted() -> Any:
        found = pushed("jobserver_jobs_completed")
        return [] if found is None else [labels(point) for point in found.sum.data_points if point.as_double == 1.0]

    assert await eventually(counted) == [{"type": "says.context", "queue": "default"}]
    [ran] = pushed("jobserver_attempt_duration_seconds").histogram.data_points
    assert labels(ran) == {"type": "says.context", "outcome": "completed"}
    assert (ran.count, sum(ran.bucket_counts)) == (1, 1)
    assert len(ran.bucket_counts) == len(ran.explicit_bounds) + 1
    assert pushed("jobserver_build_info").gauge.data_points[0].as_double == 1.0
    assert pushed("jobserver_consumers").gauge.data_points[0].as_double == 64.0

    def said() -> Any:
        return next((record for record in list(sink.logs) if record.body.string_value == "job_completed"), None)

    record = await eventually(said)
    assert (record.severity_text, record.trace_id.hex()) == ("INFO", job["trace_id"])
    assert {pair.key: pair.value.string_value for pair in record.attributes}["job_id"] == job["id"]
    assert await server.stop() == 0
    # The last lines, and the last figures.
    bodies = [record.body.string_value for record in sink.logs]
    assert "server_draining" in bodies


async def dropped(server: ServerProcess) -> float:
    """Spans that were counted as dropped."""
    page = (await server.http.get("/metrics")).text
    [found] = re.findall(r"^jobserver_spans_dropped_total (\S+)$", page, re.MULTILINE)
    return float(found)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_collector_that_answers_nothing_costs_spans_and_no_job(fleet: Serve, protocol: str) -> None:
    # In short; `bench/blackhole.py` takes a minute, and compares rates.
    try:
        alone = Collector(None)
    except EngineMissingError as error:
        pytest.skip(str(error))
    with contextlib.closing(alone):
        variables = {**alone.variables(protocol), "OTEL_BSP_MAX_QUEUE_SIZE": "1000"}
        # All signals: they have the time limit of a stop together.
        others = {f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("METRICS", "LOGS")}
        variables |= {**others, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
        server = await fleet("--log-level", "warning", handlers=TRACED, **variables)
        process = psutil.Process(server.pid)
        batch = [{"type": "echo", "payload": number} for number in range(1_000)]

        async def seconds() -> float:
            began = time.monotonic()
            for _ in range(3):
                await server.submit_all(batch)
            counts = await server.counts()
            while counts.keys() - {"completed"}:
                await asyncio.sleep(0.05)
                counts = await server.counts()
            return time.monotonic() - began

        await seconds()
        well = await seconds()
        alone.suspend()
        ill = await seconds()
        before = process.memory_info().rss
        ill = min(ill, await seconds())
        assert (process.memory_info().rss - before) / 2**20 < 20
        # What a busy machine takes from a try is not the collector's doing.
        for _ in range(4):
            if ill >= 1.5 * well + 0.5:
                ill = min(ill, await seconds())
        assert ill < 1.5 * well + 0.5
        # The queue is full, and what finds no place there is counted: each job has two spans.
        assert await dropped(server) > 2 * 6_000 - 1_000 - 3 * 512 - 1_000
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < 9
        assert server.stderr.count("spans_not_exported") <= 1


async def test_a_collector_that_is_away_is_said_once_and_no_job_waits(fleet: Serve) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    server = await fleet(handlers=TRACED, **variables)
    for _ in range(5):
        await server.finished(await server.submit("says.context"))
    assert await server.stop() == 0
    assert server.stderr.count("spans_not_exported") == 1


async def test_variables_stand_in_dotenv_too(
    serve: Serve, behind: tuple[Collector, Sink], sink: Sink, workdir: Any
) -> None:
    lines = [f"{name}={value}" for name, value in behind[0].variables().items()]
    (workdir / ".env").write_text("\n".join([*lines, "OTEL_SERVICE_NAME=from the file"]))
    # The environment is stronger.
    server = await serve("--data-dir", str(workdir / "data"), handlers=TRACED, OTEL_SERVICE_NAME="letters")
    job = await server.finished(await server.submit("says.context.process"))
    spans = await settled(sink, job["trace_id"], 4)
    assert {span.resource["service.name"] for span in spans} == {"letters"}
    assert await server.stop() == 0


async def test_each_process_behind_a_port_tells_of_its_own_work(
    fleet: Serve, behind: tuple[Collector, Sink], sink: Sink, workdir: Path
) -> None:
    # Nothing is sent before the end: each process has to export what waits when it stops.
    asked = {
        **behind[0].variables(),
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_METRICS_EXPORTER": "otlp",
    }
    (workdir / ".env").write_text("\n".join(f"{name}={value}" for name, value in asked.items()))
    server = await fleet("--processes", "2", "--workers", "4", handlers=TRACED)
    processes = {worker["id"] for worker in (await server.get("/workers"))["items"]}
    assert len(processes) == 2

    async def submit() -> str:
        # Over a connection of its own: either process may take it.
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            job_id: str = (await client.post("/jobs", json={"type": "says.context"})).json()["id"]
            return job_id

    jobs = await server.all_finished(await asyncio.gather(*(submit() for _ in range(40))))
    assert await server.stop() == 0
    for job in jobs:
        spans = await settled(sink, job["trace_id"], 4)
        assert tree(spans, None) == [
            "POST /jobs SERVER UNSET",
            "  create default PRODUCER UNSET",
            "    process default CONSUMER UNSET",
            "      work INTERNAL UNSET",
        ]
    # 2 ** -39 that one process took all requests.
    assert {span.resource["service.instance.id"] for span in sink.named("POST /jobs")} == processes
    assert {span.resource["service.instance.id"] for span in sink.spans} == processes

    def pushed() -> bool:
        return sink.latest.keys() == processes

    await eventually(pushed)
    created = [sink.latest[each]["jobserver_jobs_created"].sum.data_points for each in processes]
    assert sum(point.as_double for points in created for point in points) == len(jobs)
