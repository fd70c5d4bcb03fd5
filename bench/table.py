"""The results as the tables of the README (Markdown, on stdout) and as plots beside them (SVG).

    python -m bench.table [FOLDER]

Reads what there is of throughput, latency, ceilings, scale, soak, ablations, peers and peer_recovery; the same results
give the same bytes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from bench.record import RESULTS

NOTHING: Final = "–"


class Peer(msgspec.Struct, frozen=True):
    """What a peer's side says of it."""

    recovery: str = ""
    versions: dict[str, str] = {}


class Result(msgspec.Struct, frozen=True):
    """What a table needs of a file of `bench.record`."""

    medians: dict[str, float]
    runs: dict[str, list[float]]
    machine: dict[str, Any]
    versions: dict[str, str]
    persistence: str
    command: str
    quick: bool
    shares: dict[str, float] = {}
    peers: dict[str, Peer] = {}
    limit_seconds: float = 0.0


class Row(msgspec.Struct, frozen=True):
    """A line of the first table: where its figures are, and how they read."""

    label: str
    file: str
    figures: tuple[str, ...]
    reads: str


class Bar(msgspec.Struct, frozen=True):
    label: str
    value: float
    # Ours, where others are beside it.
    stressed: bool = False


HEADLINES: Final = (
    *(
        Row(
            f"`POST /jobs` one by one, {connections} connection{'s' if connections > 1 else ''}",
            "throughput",
            (
                f"submit.post_{connections}_per_second",
                f"submit.post_{connections}_p50_ms",
                f"submit.post_{connections}_p99_ms",
            ),
            "{:,.0f}/s, p50 {:.1f} ms, p99 {:.1f} ms",
        )
        for connections in (1, 16, 64, 256)
    ),
    *(
        Row(
            f"`POST /jobs/batch` of 1,000, {number} connection{'s' if number > 1 else ''}",
            "throughput",
            (f"submit.batch_by_{number}_per_second",),
            "{:,.0f} jobs/s",
        )
        for number in (1, 4)
    ),
    Row(
        "in the server's process, one by one from 64 callers",
        "throughput",
        ("python.submit_64_per_second",),
        "{:,.0f} jobs/s",
    ),
    Row(
        "in the server's process, 1,000 at once",
        "throughput",
        ("python.submit_many_1000_per_second",),
        "{:,.0f} jobs/s",
    ),
    *(
        Row(
            f"drain, one process, {consumers:,} consumer{'s' if consumers > 1 else ''}",
            "throughput",
            (f"drain_{consumers}.per_second",),
            "{:,.0f} jobs/s",
        )
        for consumers in (1, 10, 100, 1_000)
    ),
    Row(
        "submit and drain at once over HTTP, whole lives",
        "throughput",
        ("lives_64.per_second",),
        "{:,.0f} jobs/s",
    ),
    Row(
        "embedded pair: `POST /jobs`, 64 connections; drain, 100 consumers",
        "throughput",
        ("embedded.post_64_per_second", "embedded.drain_100_per_second"),
        "{:,.0f}/s; {:,.0f} jobs/s",
    ),
    Row(
        "idle: submit answered",
        "latency",
        ("idle.submit_p50_ms", "idle.submit_p99_ms"),
        "p50 {:.1f} ms, p99 {:.1f} ms",
    ),
    Row(
        "idle: submit → handler started",
        "latency",
        ("idle.started_p50_ms", "idle.started_p99_ms"),
        "p50 {:.1f} ms, p99 {:.1f} ms",
    ),
    Row(
        "idle: submit → completed",
        "latency",
        ("idle.completed_p50_ms", "idle.completed_p99_ms"),
        "p50 {:.1f} ms, p99 {:.1f} ms",
    ),
    Row(
        "ten minutes at a steady rate: jobs, resident memory after a minute and at the end",
        "soak",
        ("soak.jobs", "soak.rss_warm_mib", "soak.rss_end_mib"),
        "{:,.0f} jobs, {:.0f} and {:.0f} MiB",
    ),
)

SHARES: Final = (25, 50, 75)
PERCENTILES: Final = {"p50": "p50", "p95": "p95", "p99": "p99", "p999": "p99.9"}
KINDS: Final = (
    ("lean", "submit", "submit, API only, lean load"),
    ("submit", "submit", "submit, API only"),
    ("lives", "submit", "submit, while jobs run"),
    ("lives", "started", "submit → handler started"),
    ("lives", "completed", "submit → completed"),
)
CASES: Final = {
    "empty": "empty table",
    "waiting_10k": "10 k waiting",
    "waiting_100k": "100 k waiting",
    "waiting_1m": "1 M waiting",
    "finished_10m": "1 M waiting, 10 M finished",
}
SCALED: Final = {
    "drain_per_second": ("drain, jobs/s", "{:,.0f}"),
    "post_per_second": ("`POST /jobs`, 64 connections, per second", "{:,.0f}"),
    "batch_per_second": ("`POST /jobs/batch`, jobs/s", "{:,.0f}"),
    "list_ms": ("`GET /jobs`, ms", "{:.1f}"),
    "list_queued_ms": ("`GET /jobs?status=queued`, ms", "{:.1f}"),
    "list_completed_ms": ("`GET /jobs?status=completed&type=…`, ms", "{:,.1f}"),
    "stats_ms": ("`GET /admin/stats`, ms", "{:.1f}"),
    "reconcile_ms": ("a pass of reconcile, ms", "{:.1f}"),
    "redelivered_per_second": ("published again after a wipe, jobs/s", "{:,.0f}"),
    "redis_bytes_a_waiting_job": ("bytes in Redis a waiting job", "{:,.0f}"),
    "worker_rss_mib": ("memory of the process, MiB", "{:,.0f}"),
    "table_mib": ("tables and indexes, MiB", "{:,.0f}"),
}
PAYLOADS: Final = {"payload_100": "100 B", "payload_10k": "10 kB", "payload_500k": "500 kB"}
PROCESSES: Final = {"processes_1": "1", "processes_2": "2", "processes_4": "4"}
LEVERS: Final = {
    "batching": "no batches: a commit for each",
    "flights": "one flush at a time",
    "two_connections": "two connections",
    "full_pages": "fillfactor 100",
    "uvloop": "asyncio's event loop",
    "httptools": "h11",
    "collector": "Python's collector as it comes",
    "sql_claim": "no claim in SQL, and so no fence",
    "info_logs": "logs at `info`",
    "traces_0_percent": "traces on, 0 % recorded",
    "traces_1_percent": "traces, 1 % recorded",
    "traces_10_percent": "traces, 10 % recorded",
    "traces_100_percent": "traces, 100 % recorded",
}
PEER_COLUMNS: Final = {
    "submit_per_second": ("submit, one by one", "{:,.0f}/s"),
    "bulk_per_second": ("submit, bulk", "{:,.0f}/s"),
    "drain_per_second": ("drain", "{:,.0f}/s"),
    "latency_p50_ms": ("latency p50", "{:.1f} ms"),
    "latency_p99_ms": ("latency p99", "{:.1f} ms"),
    "post_per_second": ("`POST /jobs`, 64 connections", "{:,.0f}/s"),
    "post_p99_ms": ("its p99", "{:.1f} ms"),
    "lives_per_second": ("whole lives", "{:,.0f}/s"),
}
OURS: Final = "jobserver"

Results = dict[str, Result]


# Tables.


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where there are no rows."""
    lines = [" | ".join(row) for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {line} |" for line in (" | ".join(header), " | ".join(["---"] * len(header)), *lines)) + "\n"


def headlines(results: Results) -> str:
    rows = []
    for row in HEADLINES:
        medians = results[row.file].medians if row.file in results else {}
        if all(figure in medians for figure in row.figures):
            rows.append((row.label, row.reads.format(*(medians[figure] for figure in row.figures))))
    return markdown(("figure", "measured"), rows)


def ceilings(results: Results) -> str:
    if "ceilings" not in results:
        return ""
    found = results["ceilings"]
    rows = []
    for name, share in found.shares.items():
        figure, ceiling = name.split(" of ")
        rows.append(
            (
                f"`{figure}`",
                f"{found.medians[figure]:,.0f}",
                f"`{ceiling}`",
                f"{found.medians[ceiling]:,.0f}",
                f"{share:.0%}",
            )
        )
    return markdown(("ours", "per second", "ceiling", "per second", "share"), rows)


def latencies(results: Results) -> str:
    if "latency" not in results:
        return ""
    medians = results["latency"].medians
    rows = []
    for mode, what, label in KINDS:
        for share in SHARES:
            names = [f"{mode}.at_{share}.{what}_{name}_ms" for name in PERCENTILES]
            if all(name in medians for name in names):
                rate = medians[f"{mode}.saturated_per_second"] * share / 100
                rows.append((label, f"{share} % ({rate:,.0f}/s)", *(f"{medians[name]:.1f}" for name in names)))
    return markdown(("ms", "of saturation", *PERCENTILES.values()), rows)


def scale(results: Results) -> str:
    if "scale" not in results:
        return ""
    medians = results["scale"].medians
    cases = [case for case in CASES if f"{case}.drain_per_second" in medians]
    rows = [(label, *_cells(medians, cases, figure, reads)) for figure, (label, reads) in SCALED.items()]
    table = markdown(("", *(CASES[case] for case in cases)), rows if cases else [])
    sizes = [size for size in PAYLOADS if f"{size}.drain_per_second" in medians]
    rows = [
        (label, *_cells(medians, sizes, figure, "{:,.0f}"))
        for figure, label in {
            "post_16_per_second": "`POST /jobs`, 16 connections, per second",
            "drain_per_second": "drain, jobs/s",
            "worker_rss_mib": "memory of the process, MiB",
        }.items()
    ]
    payloads = markdown(("payload", *(PAYLOADS[size] for size in sizes)), rows if sizes else [])
    numbers = [name for name in PROCESSES if f"{name}.drain_per_second" in medians]
    rows = [
        (label, *_cells(medians, numbers, figure, "{:,.0f}"))
        for figure, label in {
            "post_64_per_second": "`POST /jobs`, 64 connections, per second",
            "drain_per_second": "drain, jobs/s",
            "rss_mib": "memory of all processes, MiB",
        }.items()
    ]
    shared = markdown(("processes", *(PROCESSES[name] for name in numbers)), rows if numbers else [])
    return "\n".join(filter(None, [table, payloads, shared]))


def _cells(medians: dict[str, float], names: Sequence[str], figure: str, reads: str) -> list[str]:
    return [reads.format(medians[key]) if (key := f"{name}.{figure}") in medians else NOTHING for name in names]


def ablations(results: Results) -> str:
    if "ablations" not in results:
        return ""
    shares = results["ablations"].shares
    return markdown(
        ("without", "`POST /jobs`", "drain"),
        (
            (label, f"{shares[f'{lever}.post_per_second']:.0%}", f"{shares[f'{lever}.drain_per_second']:.0%}")
            for lever, label in LEVERS.items()
            if f"{lever}.drain_per_second" in shares
        ),
    )


def peers(results: Results) -> str:
    """Two tables: queues, fastest drain first, and what users glue together."""
    if "peers" not in results:
        return ""
    tables = []
    for leading, columns in (
        ("drain_per_second", list(PEER_COLUMNS)[:5]),
        ("lives_per_second", list(PEER_COLUMNS)[5:]),
    ):
        found = peer_figures(results["peers"].medians, leading)
        rows = []
        for name, figures in found:
            shown = [PEER_COLUMNS[each][1].format(figures[each]) if each in figures else NOTHING for each in columns]
            rows.append((f"**{name}**" if name == OURS else name, *shown))
        tables.append(markdown(("", *(PEER_COLUMNS[each][0] for each in columns)), rows))
    return "\n".join(filter(None, tables))


def peer_figures(medians: dict[str, float], leading: str) -> list[tuple[str, dict[str, float]]]:
    """Who has the leading figure, highest first. Ours is the median of what it did beside each of them."""
    names = [key.removesuffix(f".{leading}") for key in medians if key.endswith(f".{leading}") and ".ours." not in key]
    found = {
        name: {key.removeprefix(f"{name}."): value for key, value in medians.items() if key.startswith(f"{name}.")}
        for name in names
    }
    beside: dict[str, list[float]] = {}
    for figures in found.values():
        for key, value in figures.items():
            if key.startswith("ours."):
                beside.setdefault(key.removeprefix("ours."), []).append(value)
    if leading in beside:
        found[OURS] = {key: statistics.median(values) for key, values in beside.items()}
    return sorted(found.items(), key=lambda each: (-each[1][leading], each[0]))


def peer_recovery(results: Results) -> str:
    """The fastest first; a run that came to its limit is said to have done so."""
    if "peer_recovery" not in results:
        return ""
    found = results["peer_recovery"]

    def shown(seconds: float) -> str:
        return f"{seconds:.1f} s" if seconds < found.limit_seconds else f"not within {found.limit_seconds:g} s"

    rows = []
    for figure, median in sorted(found.medians.items(), key=lambda each: (each[1], each[0])):
        name = figure.removesuffix(".seconds")
        least, most = shown(min(found.runs[figure])), shown(max(found.runs[figure]))
        said = found.peers[name].recovery if name in found.peers else NOTHING
        spread = least if least == most else f"{least} .. {most}"
        rows.append((f"**{name}**" if name == OURS else name, shown(median), spread, said))
    return markdown(("kill -9 of a worker", "its job runs again after", "least .. most", "what finds it"), rows)


# Plots.

WIDTH: Final = 820
LABELS: Final = 320
VALUES: Final = 90
HEIGHT: Final = 26
# Mid-tones, to be read on light and on dark pages.
STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.title{font-weight:600;font-size:15px}"
    ".bar{fill:#6e9bd1}.ours{fill:#d9822b}.line{stroke:#8c959f;stroke-dasharray:3 3}"
    "@media(prefers-color-scheme:dark){text{fill:#b1bac4}}"
)


def plot(title: str, bars: Sequence[Bar], reads: str, *, line: float | None = None) -> str:
    """Horizontal bars; `line` marks a value that means something."""
    room = WIDTH - LABELS - VALUES
    most = max([*(bar.value for bar in bars), line or 0.0, 1e-9])
    height = 50 + HEIGHT * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="10" y="24">{escape(title)}</text>',
    ]
    for number, bar in enumerate(bars):
        top = 40 + HEIGHT * number
        length = max(room * bar.value / most, 1.0)
        kind = "ours" if bar.stressed else "bar"
        parts += [
            f'<text x="{LABELS - 8}" y="{top + 15}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{LABELS}" y="{top + 2}" width="{length:.1f}" height="{HEIGHT - 8}" rx="2"/>',
            f'<text x="{LABELS + length + 6:.1f}" y="{top + 15}">{escape(reads.format(bar.value))}</text>',
        ]
    if line is not None:
        x = LABELS + room * line / most
        parts.append(f'<line class="line" x1="{x:.1f}" y1="36" x2="{x:.1f}" y2="{height - 8}"/>')
    return "\n".join([*parts, "</svg>", ""])


def plots(results: Results) -> dict[str, str]:
    """The files by name."""
    drawn: dict[str, str] = {}

    def draw(name: str, title: str, bars: Sequence[Bar], reads: str = "{:,.0f}", *, line: float | None = None) -> None:
        if bars:
            drawn[f"{name}.svg"] = plot(title, bars, reads, line=line)

    rates = [row for row in HEADLINES if row.file == "throughput" and len(row.figures) != 2]
    draw("throughput", "Jobs a second, each committed", _bars(results, "throughput", _firsts(rates)))
    draw(
        "latency",
        "Milliseconds at half of saturation",
        _bars(
            results,
            "latency",
            {
                f"{mode}.at_50.{what}_{name}_ms": f"{label}, {shown}"
                for mode, what, label in KINDS
                for name, shown in (("p50", "p50"), ("p99", "p99"))
            },
        ),
        "{:.1f}",
    )
    if "ceilings" in results:
        shares = results["ceilings"].shares
        bars = [Bar(_spoken(name), share * 100) for name, share in shares.items()]
        draw("ceilings", "Percent of what the parts can do alone", bars, "{:.0f} %", line=100.0)
    draw(
        "scale",
        "Jobs drained a second, by what is in the tables",
        _bars(results, "scale", {f"{case}.drain_per_second": label for case, label in CASES.items()}),
    )
    if "ablations" in results:
        shares = results["ablations"].shares
        bars = [
            Bar(f"{label.replace('`', '')}, {said}", shares[key] * 100)
            for lever, label in LEVERS.items()
            for what, said in (("post_per_second", "submit"), ("drain_per_second", "drain"))
            if (key := f"{lever}.{what}") in shares
        ]
        draw("ablations", "Percent of the server as it is", bars, "{:.0f} %", line=100.0)
    if "peers" in results:
        medians = results["peers"].medians
        for name, leading, title in (
            ("peers", "drain_per_second", "Jobs drained a second"),
            ("glue", "lives_per_second", "Whole lives a second, from HTTP to a row that says so"),
        ):
            found = peer_figures(medians, leading)
            draw(name, title, [Bar(peer, figures[leading], peer == OURS) for peer, figures in found])
    return drawn


def _firsts(rows: Sequence[Row]) -> dict[str, str]:
    return {row.figures[0]: row.label.replace("`", "").replace("in the server's process", "in process") for row in rows}


def _bars(results: Results, file: str, figures: dict[str, str]) -> list[Bar]:
    medians = results[file].medians if file in results else {}
    return [Bar(label, medians[figure]) for figure, label in figures.items() if figure in medians]


def _spoken(share: str) -> str:
    """`ours.post_per_second of litestar.post_per_second` as `post of litestar post`."""
    return share.replace("ours.", "").replace("_per_second", "").replace(".", " ").replace("_", " ")


def provenance(results: Results) -> str:
    """What the figures were measured on, and how."""
    lines = [
        f"- `{found.command}`{', quick: its figures mean nothing' if found.quick else ''}" for found in results.values()
    ]
    first = next(iter(results.values()))
    machine = first.machine
    versions = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    said = f"{machine['cpus']} cores ({machine['processor']}, {machine['platform']}); {versions}. {first.persistence}."
    return "\n".join([said, "", *lines])


# The command.

SECTIONS: Final[dict[str, Callable[[Results], str]]] = {
    "Throughput and latency": headlines,
    "At a constant rate": latencies,
    "Against the ceilings": ceilings,
    "With much in the tables": scale,
    "What each lever is worth": ablations,
    "Beside its peers": peers,
    "After kill -9, beside its peers": peer_recovery,
}


def read(folder: Path) -> Results:
    """The results that are there."""
    names = ("throughput", "latency", "ceilings", "scale", "soak", "ablations", "peers", "peer_recovery")
    files = {name: folder / f"{name}.json" for name in names}
    return {name: msgspec.json.decode(file.read_bytes(), type=Result) for name, file in files.items() if file.exists()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    folder: Path = parser.parse_args().folder
    results = read(folder)
    if not results:
        raise SystemExit(f"{folder} holds no results.")
    for title, section in SECTIONS.items():
        if table := section(results):
            print(f"### {title}\n\n{table}")
    print(provenance(results))
    for name, content in plots(results).items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
