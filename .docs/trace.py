"""Makes trace.svg: the trace of a job that fails twice, loses its process, and completes on another one.

    pip install -e '.[dev]' && python .docs/trace.py

Two processes on PostgreSQL and Valkey export to a real collector; what is drawn is what arrived behind it. Jaeger is
not run: the bars are drawn here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.collector import Sink, Span, collector  # noqa: E402
from tests.engines import PostgresServer, RedisServer, eventually  # noqa: E402
from tests.life.process import ServerProcess  # noqa: E402

PICTURE = Path(__file__).with_name("trace.svg")
HANDLERS = """
import asyncio

from jobserver import Attempt, Handlers

handlers = Handlers()


@handlers.handler("letter")
async def letter(attempt: Attempt) -> str:
    with attempt.tracer.start_as_current_span("render"):
        await asyncio.sleep(0.1)
    with attempt.tracer.start_as_current_span("deliver"):
        await asyncio.sleep(0.15)
        if attempt.number < 3:
            raise ConnectionError("the mail server refused")
        if attempt.number == 3:
            await asyncio.sleep(60)
    return "delivered"
"""
BATCHES = ("insert", "send", "claim", "settle")
COLOURS = ("#6eaafa", "#98d379", "#5fced2")
# A job whose process died runs in a child of the next one.
PROCESSES = ("process 1, killed", "process 2", "its child")
BAD = "#f07178"
LEFT, PLOT_WIDTH, ROW, TOP, WIDTH = 250, 500, 21, 64, 984


async def traced(folder: Path) -> tuple[list[Span], Counter[str]]:
    """The spans of the job, by their start, and how many batches had a part in it, by name."""
    (folder / "letters.py").write_text(HANDLERS, encoding="utf-8")
    with PostgresServer() as postgres, RedisServer("valkey") as valkey, collector() as (through, sink):
        where = ("--database-url", postgres.create_database(), "--redis-url", valkey.url)
        arguments = ("letters:handlers", *where, "--lease-seconds", "1s", "--backoff-base", "1", "--backoff-cap", "0.4")
        servers: list[ServerProcess] = []

        async def serve() -> ServerProcess:
            log = folder / f"{len(servers)}.log"
            servers.append(await ServerProcess.start(arguments, cwd=folder, log=log, **through.variables()))
            return await servers[-1].started()

        try:
            one = await serve()
            job_id, trace_id = await submitted(one)
            # Its third attempt has begun to deliver; the span of what came before has arrived.
            await eventually(lambda: len(named(sink, trace_id, "render")) == 3, within=20.0)
            other = await serve()
            one.send(signal.SIGKILL)
            await other.finished(job_id, within=40.0)
            spans = await eventually(lambda: whole(sink, trace_id), within=20.0)
            assert spans is not None
        finally:
            for server in servers:
                await server.end()
        return spans, Counter(
            span.name
            for span in {each.span_id: each for each in sink.spans}.values()
            if span.name in BATCHES and any(link.trace_id == trace_id for link in span.links)
        )


async def submitted(server: ServerProcess) -> tuple[str, str]:
    answer = await server.http.post("/jobs", json={"type": "letter", "queue": "mail"})
    job: dict[str, Any] = answer.raise_for_status().json()
    return job["id"], job["trace_id"]


def named(sink: Sink, trace_id: str, name: str) -> list[Span]:
    return [span for span in sink.of_trace(trace_id) if span.name == name]


def whole(sink: Sink, trace_id: str) -> list[Span] | None:
    """All that can arrive: what the killed process did not end yet is lost with it."""
    ended = len(named(sink, trace_id, "process mail")) == 4 and len(named(sink, trace_id, "deliver")) == 3
    return sink.of_trace(trace_id) if ended else None


def rows_of(spans: Sequence[Span], parent: str | None = None, depth: int = 0) -> list[tuple[int, Span]]:
    """The tree, one a row, each with its depth."""
    rows = []
    for span in spans:
        if span.parent_id == parent:
            rows += [(depth, span), *rows_of(spans, span.span_id, depth + 1)]
    return rows


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "small") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" class="{kind}">{escape(said)}</text>'


def said_of(span: Span) -> str:
    """How an attempt ended, and of whom the row tells."""
    if span.kind != "CONSUMER":
        return ""
    told = [f"fence {span.attributes['jobserver.job.fence']}", span.attributes["jobserver.job.outcome"]]
    wrong = span.attributes.get("error.type")
    return ", ".join(told if wrong is None else [*told, wrong])


def picture(spans: Sequence[Span], batches: Counter[str]) -> str:
    rows = rows_of(spans)
    began, ended = min(span.start_ns for span in spans), max(span.end_ns for span in spans)

    def across(at_ns: int) -> float:
        return LEFT + (at_ns - began) / (ended - began) * PLOT_WIDTH

    # In this order they begin.
    processes = list(dict.fromkeys(span.resource["service.instance.id"] for span in spans))
    place = {span.span_id: TOP + number * ROW for number, (_, span) in enumerate(rows)}
    bottom = TOP + len(rows) * ROW
    parts = [
        text(14, 24, f"trace {spans[0].trace_id}", kind="title"),
        *(
            f'<rect x="{LEFT + number * 120}" y="35" width="9" height="9" fill="{colour}"/>'
            + text(LEFT + number * 120 + 14, 43, name)
            for number, (name, colour) in enumerate(zip(PROCESSES, COLOURS, strict=True))
        ),
        f'<rect x="{LEFT + 344}" y="35" width="9" height="9" fill="none" stroke="{BAD}"/>',
        text(LEFT + 358, 43, "status: error"),
        f'<circle cx="{LEFT + 458}" cy="40" r="2.5" class="event"/>{text(LEFT + 466, 43, "event")}',
        f'<path d="M{LEFT + 526},40h22" class="link"/>{text(LEFT + 554, 43, "link")}',
    ]
    for second in range((ended - began) // 10**9 + 1):
        x = across(began + second * 10**9)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" class="mark"/>')
        parts.append(text(x, bottom + 14, f"{second} s", "middle"))
    for depth, span in rows:
        y = place[span.span_id]
        start, width = across(span.start_ns), max(2.5, across(span.end_ns) - across(span.start_ns))
        edge = f' stroke="{BAD}" stroke-width="1.5"' if span.status == "ERROR" else ""
        colour = COLOURS[processes.index(span.resource["service.instance.id"])]
        parts += [
            text(14 + depth * 14, y + 14, span.name, kind="name"),
            text(LEFT - 16, y + 14, span.kind.lower(), "end"),
            f'<rect x="{start:.1f}" y="{y + 4}" width="{width:.1f}" height="12" rx="2" fill="{colour}"{edge}/>',
            *(
                f'<circle cx="{across(event.at_ns):.1f}" cy="{y + 10}" r="2.5" class="event">'
                f"<title>{escape(event.name)}</title></circle>"
                for event in span.events
            ),
            text(start + width + 8, y + 14, said_of(span)),
        ]
        for link in span.links:
            if link.span_id in place:
                before = place[link.span_id] + 16
                parts.append(f'<path d="M{start:.1f},{y + 4}V{before}" class="link"/>')
    linked = ", ".join(f"{batches[name]} {name}" for name in BATCHES if batches[name])
    parts.append(text(14, bottom + 36, f"traces of their own, with a link to this one: the batches {linked}"))
    height = bottom + 48
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        "<style>.small{font:11px sans-serif;fill:#9aa3b5}.name{font:12px monospace;fill:#d4d8e1}"
        ".title{font:bold 12px monospace;fill:#d4d8e1}.mark{stroke:#333844;stroke-dasharray:2 3}"
        ".event{fill:#0f1116;stroke:#eac46d;stroke-width:1.3}"
        ".link{fill:none;stroke:#c68cf0;stroke-width:1.2;stroke-dasharray:3 2}</style>\n"
        f'<rect width="{WIDTH}" height="{height}" rx="4" fill="#0f1116"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        PICTURE.write_text(picture(*asyncio.run(traced(Path(folder)))), encoding="utf-8")


if __name__ == "__main__":
    main()
