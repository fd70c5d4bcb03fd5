"""Makes dashboard.svg: what the panels of the Overview show of a real run, as a real Prometheus answers their queries.

    pip install -e '.[dev]' && JOBSERVER_TEST_PROMETHEUS=FOLDER python .docs/dashboard.py

Two processes on PostgreSQL and Valkey for 105 seconds: a steady load, failures from second 25 to 40, SIGKILL of one
process at second 55, and a new one at second 75. Grafana is not run: the lines are drawn here.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from html import escape
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.engines import PostgresServer, RedisServer, eventually, free_port  # noqa: E402
from tests.prometheus import prometheus  # noqa: E402

PICTURE = Path(__file__).with_name("dashboard.svg")
SECONDS = 105
FAILURES = (25, 40)
KILL, AGAIN = 55, 75
PANELS = (
    *("Rates", "Success by type", "Jobs that wait"),
    *("From created to terminal", "Consumers", "Dead letters and workers"),
)
COLOURS = ("#6eaafa", "#98d379", "#f07178", "#eac46d", "#c68cf0", "#5fced2", "#e8915b", "#8b93a7")
WIDTH, HEIGHT, LEFT, TOP = 352, 196, 44, 30
PLOT_WIDTH, PLOT_HEIGHT = 296, 104


class Process:
    """One `jobserver serve`."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.port = free_port()
        self.log = folder / f"{self.port}.log"
        self._arguments = [*arguments, "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobserver", "serve", *self._arguments], stdout=log, stderr=log, cwd=ROOT
            )

        async def answers() -> bool:
            async with httpx.AsyncClient(trust_env=False) as client:
                try:
                    return (await client.get(f"http://127.0.0.1:{self.port}/health")).status_code == 200
                except httpx.TransportError:
                    return False

        await eventually(answers, within=30.0, every=0.1)

    def end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None


async def feed(port: int, began: float) -> None:
    """The load, in steps of a fifth of a second."""
    chance = random.Random(5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
        step = 0
        while (at := time.time() - began) < SECONDS:
            jobs: list[dict[str, Any]] = [{"type": "echo", "payload": step}] * chance.randint(16, 24)
            # Of 32 consumers these keep about 20 busy: more than one process has.
            jobs += [
                {"type": "sleep", "queue": "reports", "payload": {"seconds": chance.uniform(0.3, 1.3)}}
                for _ in range(5)
            ]
            jobs += [{"type": "fail", "queue": "mail", "payload": {"times": 1}}]
            if FAILURES[0] <= at < FAILURES[1]:
                jobs += [{"type": "fail", "queue": "mail", "payload": {"retryable": False}}] * 2
            answer = await client.post("/jobs/batch", json={"jobs": jobs})
            answer.raise_for_status()
            step += 1
            await asyncio.sleep(max(0.0, began + step * 0.2 - time.time()))


# Of each query of a panel: the legend, and the rows that Prometheus answered.
Answers = list[tuple[str, list[dict[str, Any]]]]


async def measure(folder: Path) -> tuple[float, dict[str, Answers]]:
    """When the load began, and what each panel shows of it."""
    overview = json.loads((ROOT / "grafana" / "dashboards" / "overview.json").read_text(encoding="utf-8"))
    with PostgresServer() as postgres, RedisServer("valkey") as valkey:
        engines = ["--database-url", postgres.create_database(), "--redis-url", valkey.url]
        arguments = [*engines, "--workers", "16", "--lease-seconds", "6s", "--log-level", "warning"]
        one, other = Process(folder, arguments), Process(folder, arguments)
        try:
            await one.start()
            await other.start()
            targets = [f"127.0.0.1:{process.port}" for process in (one, other)]
            async with prometheus(folder, targets) as scraper:

                async def scraped() -> bool:
                    return (await scraper.values("sum(up)")) == {(): 2.0}

                await eventually(scraped, within=30.0)
                began = time.time()
                feeding = asyncio.create_task(feed(one.port, began))
                await asyncio.sleep(KILL)
                other.end(signal.SIGKILL)
                await asyncio.sleep(began + AGAIN - time.time())
                await other.start()
                await feeding
                found = {}
                for panel in overview["panels"]:
                    if panel["title"] in PANELS:
                        found[panel["title"]] = [
                            (
                                target["legendFormat"],
                                await scraper.course(
                                    target["expr"].replace("$__rate_interval", "5s"), began, began + SECONDS, 1
                                ),
                            )
                            for target in panel["targets"]
                        ]
                return began, found
        finally:
            one.end(signal.SIGTERM)
            other.end(signal.SIGTERM)


Line = tuple[str, list[tuple[float, float]]]


def lines_of(queries: Answers, began: float) -> list[Line]:
    """Their names and points, without those that are always 0."""
    lines = []
    for legend, rows in queries:
        for row in rows:
            name = re.sub(r"\{\{(\w+)\}\}", lambda label: row["metric"].get(label[1], ""), legend)  # noqa: B023
            points = [(at - began, float(value)) for at, value in row["values"] if math.isfinite(float(value))]
            if any(value for _, value in points):
                lines.append((name, points))
    return lines


def across(at: float) -> float:
    """Where a second is."""
    return LEFT + at / SECONDS * PLOT_WIDTH


def shown(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def chart(title: str, queries: Answers, began: float, unit: str) -> str:
    """One panel as a group of SVG."""
    if title == "From created to terminal":
        return frame(title, heat(queries[0][1], began), "s, colour: jobs/s")
    lines = lines_of(queries, began)
    top = 1.0 if unit == "share" else max(value for _, points in lines for _, value in points) * 1.05
    drawn = [text(LEFT - 4, TOP + 8, shown(top), "end"), text(LEFT - 4, TOP + PLOT_HEIGHT, "0", "end")]
    for number, (name, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(
            f"{LEFT + at / SECONDS * PLOT_WIDTH:.1f},{TOP + PLOT_HEIGHT * (1 - value / top):.1f}"
            for at, value in points
        )
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
        x, y = LEFT + number % 3 * 100, TOP + PLOT_HEIGHT + 28 + number // 3 * 13
        drawn.append(f'<rect x="{x}" y="{y - 7}" width="8" height="8" fill="{colour}"/>{text(x + 12, y, name)}')
    return frame(title, "".join(drawn), unit)


def heat(rows: list[dict[str, Any]], began: float) -> str:
    """Cells of two seconds; the cumulative buckets are taken apart."""
    by_bound = sorted(((float(row["metric"]["le"]), dict(row["values"])) for row in rows), key=lambda each: each[0])
    cells: list[tuple[int, float, float]] = []
    for place, (_, values) in enumerate(by_bound):
        below = by_bound[place - 1][1] if place else {}
        for at, value in list(values.items())[::2]:
            n = float(value) - float(below.get(at, 0))
            if math.isfinite(n) and n > 0.01:
                cells.append((place, at - began, n))
    used = sorted({place for place, _, _ in cells})
    low, high = used[0], used[-1]
    height = PLOT_HEIGHT / (high - low + 1)
    most = max(n for _, _, n in cells)
    drawn = [
        f'<rect x="{across(at):.1f}" y="{TOP + PLOT_HEIGHT - (place - low + 1) * height:.1f}" '
        f'width="{2 * PLOT_WIDTH / SECONDS:.1f}" height="{height - 0.5:.1f}" fill="#e8915b" '
        f'opacity="{0.15 + 0.85 * math.sqrt(n / most):.2f}"/>'
        for place, at, n in cells
        if at <= SECONDS - 2
    ]
    for place in range(low, high + 1, 2):
        bound = by_bound[place][0]
        label = "inf" if math.isinf(bound) else f"{bound:g}"
        drawn.append(text(LEFT - 4, TOP + PLOT_HEIGHT - (place - low) * height, label, "end"))
    return "".join(drawn)


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "small") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" class="{kind}">{escape(said)}</text>'


def frame(title: str, inside: str, unit: str) -> str:
    marks = "".join(
        f'<line x1="{across(at):.1f}" x2="{across(at):.1f}" y1="{TOP}" y2="{TOP + PLOT_HEIGHT}" class="mark"/>'
        for at in (*FAILURES, KILL, AGAIN)
    )
    ticks = "".join(
        text(LEFT + at / SECONDS * PLOT_WIDTH, TOP + PLOT_HEIGHT + 12, f"{at} s", "middle")
        for at in (*FAILURES, KILL, AGAIN)
    )
    return (
        f'<rect x="0.5" y="0.5" width="{WIDTH - 9}" height="{HEIGHT - 9}" rx="4" class="panel"/>'
        f"{text(10, 18, title, kind='title')}{text(WIDTH - 20, 18, unit, 'end')}{marks}{inside}{ticks}"
    )


UNITS = {
    "Rates": "jobs/s",
    "Success by type": "share",
    "Jobs that wait": "jobs",
    "Consumers": "consumers",
    "Dead letters and workers": "jobs, processes",
}


def picture(began: float, found: dict[str, Answers]) -> str:
    groups = "\n".join(
        f'<g transform="translate({8 + number % 3 * WIDTH},{8 + number // 3 * HEIGHT})">'
        f"{chart(title, found[title], began, UNITS.get(title, ''))}</g>"
        for number, title in enumerate(PANELS)
    )
    width, height = 8 + 3 * WIDTH, 8 + 2 * HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        "<style>.panel{fill:#181a21;stroke:#333844}.small{font:10px sans-serif;fill:#9aa3b5}"
        ".title{font:bold 12px sans-serif;fill:#d4d8e1}.mark{stroke:#4a5162;stroke-dasharray:2 3}</style>\n"
        f'<rect width="{width}" height="{height}" fill="#0f1116"/>\n{groups}\n</svg>\n'
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        PICTURE.write_text(picture(*asyncio.run(measure(Path(folder)))), encoding="utf-8")


if __name__ == "__main__":
    main()
