"""`jobserver serve --processes 2`: several processes behind one port, and the parent that keeps them."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from jobserver.cli.parent import Parent
from jobserver.settings import Settings
from tests.clocks import judged_by_the_clock
from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.notes import Notes
from tests.life.process import ServerProcess, command

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


def processes_of(server: ServerProcess) -> dict[int, psutil.Process]:
    """The server processes by their numbers: the children of the parent that live."""
    found = {}
    for child in psutil.Process(server.pid).children():
        words = child.cmdline()
        if "jobserver.cli.child" in words:
            found[int(words[words.index("jobserver.cli.child") + 1])] = child
    return found


async def workers_alive(server: ServerProcess, wanted: set[int]) -> bool:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        items = (await client.get("/workers")).json()["items"]
    return {worker["pid"] for worker in items if worker["alive"] and not worker["draining"]} == wanted


async def asked(server: ServerProcess, path: str = "/metrics", seconds: float = 20) -> httpx.Response:
    """Over a connection of its own: any of the processes answers."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=seconds) as client:
        return await client.get(path, headers=OPENMETRICS)


def values_of(page: str, name: str) -> dict[str, float]:
    """The samples of a metric, summed by process."""
    found: Counter[str] = Counter()
    for family in openmetrics(page):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels["process"]] += sample.value
    return dict(found)


async def test_two_processes_take_requests_and_jobs_behind_one_port(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--processes", "2", "--workers", "4")
    pids = {process.pid for process in processes_of(server).values()}
    assert len(pids) == 2
    assert server.stderr.count("  http://") == 1
    for number, process in processes_of(server).items():
        assert f"{number} (pid {process.pid})" in server.stderr
    await eventually(lambda: workers_alive(server, pids))

    jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(8)])
    await eventually(lambda: len(notes.all()) == 8)
    assert Counter(note["pid"] for note in notes.all()) == dict.fromkeys(pids, 4)
    notes.open_gate()
    await server.all_finished(jobs)

    async def submit() -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await client.post("/jobs", json={"type": "echo"})).status_code == 201

    # Each over a connection of its own: 2 ** -39 that all of them come to one process.
    await asyncio.gather(*(submit() for _ in range(40)))
    created = values_of((await asked(server)).text, "jobserver_jobs_created_total")
    assert set(created) == {"0", "1"}
    assert min(created.values()) > 0
    assert sum(created.values()) == 48
    assert await server.stop() == 0


@judged_by_the_clock
async def test_the_metrics_are_those_of_all_processes_and_each_sample_says_whose(fleet: Serve) -> None:
    server = await fleet("--processes", "3", "--workers", "2")
    await server.all_finished(await server.submit_all([{"type": "echo"} for _ in range(60)]))
    page = (await asked(server)).text
    assert page.count("# EOF\n") == 1
    families = list(openmetrics(page))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    for family in families:
        assert {sample.labels.get("process") for sample in family.samples} <= {"0", "1", "2"}, family.name
    assert values_of(page, "jobserver_process_up") == {"0": 1.0, "1": 1.0, "2": 1.0}
    assert sum(values_of(page, "jobserver_jobs_completed_total").values()) == 60

    answer = await server.http.get("/metrics", headers={"accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain")
    kinds = re.findall(r"^# TYPE (\S+)", answer.text, re.MULTILINE)
    assert len(kinds) == len(set(kinds))
    assert {sample.labels.get("process") for family in plain(answer.text) for sample in family.samples} == {
        "0",
        "1",
        "2",
    }

    # One that does not answer is left out, after a while that a scrape can wait.
    paused = processes_of(server)[1]
    paused.suspend()
    try:
        answer = await eventually(lambda: answered_in_time(server), within=20)
        assert isinstance(answer, httpx.Response)
        assert answer.elapsed.total_seconds() < 1.5
        assert values_of(answer.text, "jobserver_process_up") == {"0": 1.0, "1": 0.0, "2": 1.0}
        assert set(values_of(answer.text, "jobserver_consumers")) == {"0", "2"}
    finally:
        paused.resume()
    assert await server.stop() == 0


async def answered_in_time(server: ServerProcess) -> httpx.Response | None:
    """A page of metrics; None where the connection was dealt to a process that is paused."""
    try:
        return await asked(server, seconds=2)
    except httpx.ReadTimeout:
        return None


async def test_a_killed_process_is_started_again_and_loses_nothing(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--processes", "2", "--workers", "4")
    before = processes_of(server)
    jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(8)])
    await eventually(lambda: len(notes.all()) == 8)
    before[1].kill()
    await eventually(lambda: '"event":"process_died"' in server.stderr)
    assert re.search(r'"event":"process_died".*"number":1,.*"reason":"SIGKILL"', server.stderr)

    # Its listener has outlived it: nobody is refused, though some wait for its successor.
    async def submit() -> str:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            answer = await client.post("/jobs", json={"type": "echo"})
            assert answer.status_code == 201
            return str(answer.json()["id"])

    jobs += await asyncio.gather(*(submit() for _ in range(20)))
    await eventually(lambda: len(processes_of(server)) == 2)
    after = processes_of(server)
    assert after[0] == before[0]
    assert after[1].pid != before[1].pid
    await eventually(lambda: workers_alive(server, {process.pid for process in after.values()}))
    notes.open_gate()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=90) as client:
        for job_id in jobs:
            job = (await client.get(f"/jobs/{job_id}", params={"wait": 40})).json()
            assert job["status"] == "completed", job
    assert await server.stop() == 0


async def test_one_that_dies_at_once_again_and_again_is_started_after_pauses_that_grow(fleet: Serve) -> None:
    server = await fleet("--processes", "2", "--workers", "1")

    def pauses() -> list[float]:
        # It may be killed before or after it is ready.
        found = re.findall(r'"(?:process_died|process_not_started)".*"again_in_seconds":([\d.]+)', server.stderr)
        return [float(seconds) for seconds in found]

    for _ in range(3):
        deaths = len(pauses())
        victim = await eventually(lambda: processes_of(server).get(1))
        assert isinstance(victim, psutil.Process)
        victim.kill()
        await eventually(lambda deaths=deaths: len(pauses()) == deaths + 1)
    assert pauses() in ([0.5, 1.0, 2.0], [0.0, 0.5, 1.0])
    # The other one serves meanwhile, also those that come anew.
    for _ in range(10):
        assert (await asked(server, "/health")).status_code == 200
    assert await server.stop() == 0


@pytest.mark.parametrize("stop", ["sigterm", "ctrl-c", "service manager"])
async def test_a_stop_drains_all_processes_at_once(fleet: Serve, notes: Notes, stop: str) -> None:
    server = await fleet("--processes", "2", "--workers", "2", "--drain-seconds", "60s")
    children = processes_of(server).values()
    jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 4)
    if stop == "ctrl-c":
        # The children have sessions of their own.
        server.send_to_group(signal.SIGINT)
    else:
        server.send(signal.SIGTERM)
    if stop == "service manager":
        for child in children:
            child.terminate()
    await eventually(lambda: server.stderr.count('"event":"server_draining"') == 2)
    notes.open_gate()
    assert await server.exit_code() == 0
    assert server.stderr.count('"event":"server_stopped"') == 2
    assert [notes.events(job_id) for job_id in jobs] == [["started", "returned"]] * 4
    assert not any(child.is_running() for child in children)
    assert "process_died" not in server.stderr


async def test_a_second_signal_stops_them_now(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--processes", "2", "--workers", "2", "--drain-seconds", "600s")
    jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 4)
    server.send(signal.SIGTERM)
    await eventually(lambda: server.stderr.count('"event":"server_draining"') == 2)
    began = time.monotonic()
    server.send(signal.SIGTERM)
    assert await server.exit_code(within=15) == 0
    assert time.monotonic() - began < 10
    assert [notes.events(job_id) for job_id in jobs] == [["started", "cancelled"]] * 4


async def test_processes_whose_parent_was_killed_drain_and_leave(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--processes", "2", "--workers", "2")
    children = processes_of(server).values()
    [folder] = {path.parent for child in children for path in sockets_of(child)}
    jobs = await server.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 4)
    server.kill()
    await eventually(lambda: server.stderr.count('"event":"parent_died"') == 2)
    notes.open_gate()
    await eventually(lambda: not any(running(child) for child in children), within=20)
    assert [notes.events(job_id) for job_id in jobs] == [["started", "returned"]] * 4
    assert not folder.exists()
    # The port is free again.
    again = await fleet("--port", server.url.rpartition(":")[2])
    assert (await again.finished(await again.submit("echo")))["status"] == "completed"


def sockets_of(process: psutil.Process) -> list[Path]:
    """Where it tells its metrics."""
    named = [connection.laddr for connection in process.net_connections("unix")]
    return [Path(path) for path in named if path and "jobserver-" in path]


def running(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


class Load:
    """Clients that go on asking until they are told to stop; whatever goes wrong is noted."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stopped = False
        self.accepted: list[str] = []
        self.pids: set[int] = set()

    async def kept_alive(self) -> None:
        """Over one connection, for as long as the server keeps it."""
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=30) as client:
            while not self.stopped:
                await self._submit(client)
                await asyncio.sleep(0.01)

    async def anew(self) -> None:
        """Each request over a connection of its own."""
        while not self.stopped:
            async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=30) as client:
                await self._submit(client)
            await asyncio.sleep(0.01)

    async def _submit(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/jobs", json={"type": "echo"})
        assert answer.status_code == 201, answer.text
        self.accepted.append(answer.json()["id"])


async def test_a_reload_replaces_every_process_and_refuses_no_request(fleet: Serve) -> None:
    server = await fleet("--processes", "2", "--workers", "4")
    before = processes_of(server)
    load = Load(server.url)
    clients = [asyncio.create_task(work()) for work in (load.kept_alive, load.anew) for _ in range(4)]
    await eventually(lambda: len(load.accepted) > 50)
    server.send(signal.SIGHUP)

    def replaced() -> bool:
        for client in clients:
            assert not client.done() or client.result() is None
        return not any(running(process) for process in before.values())

    await eventually(replaced, within=60)
    so_far = len(load.accepted)
    await eventually(lambda: len(load.accepted) > so_far + 50)
    load.stopped = True
    await asyncio.gather(*clients)
    after = processes_of(server)
    assert set(after) == {0, 1}
    assert not {process.pid for process in before.values()} & {process.pid for process in after.values()}
    await eventually(lambda: workers_alive(server, {process.pid for process in after.values()}))
    # One after the other: the second begins when the first one's predecessor has gone.
    events = re.findall(r'"event":"(process_started|server_stopped)"', server.stderr)
    assert events == ["process_started"] * 2 + ["process_started", "server_stopped"] * 2
    assert "process_died" not in server.stderr

    async def done() -> bool:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            counts = (await client.get("/admin/stats")).json()["by_status"]
        return bool(counts["completed"] == len(load.accepted))

    await eventually(done, within=30)
    assert await server.stop() == 0


async def test_a_process_that_was_replaced_still_answers_on_the_connections_that_it_has(fleet: Serve) -> None:
    server = await fleet("--processes", "2", "--workers", "1")
    host, port = server.url.removeprefix("http://").split(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(16)]

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))  # type: ignore[index]
        assert head.startswith("HTTP/1.1 200"), head
        return head

    # The last answer of each.
    heads = [await ask(*connection) for connection in opened]
    assert not any("connection: close" in head for head in heads)

    async def ask_again() -> None:
        for number, connection in enumerate(opened):
            if "connection: close" not in heads[number]:
                heads[number] = await ask(*connection)

    server.send(signal.SIGHUP)
    # In use until then: its successor may need longer to start than uvicorn keeps an idle connection.
    while '"event":"server_draining"' not in server.stderr:
        await ask_again()
        await asyncio.sleep(0.2)
    # Idle for a while, but not as long as it waits for them.
    await asyncio.sleep(1)
    await ask_again()
    assert 0 < sum("connection: close" in head for head in heads) < len(heads)
    # It waits no longer than there is somebody to wait for.
    for _, writer in opened:
        writer.close()
    await eventually(lambda: server.stderr.count('"event":"server_stopped"') == 2, within=30)
    assert await server.stop() == 0


WORDS = """
from jobserver import Handlers

handlers = Handlers()

@handlers.handler("word")
async def word() -> str:
    return "{}"
"""


async def test_a_reload_brings_new_code_and_one_that_is_broken_changes_nothing(fleet: Serve, workdir: Path) -> None:
    module = workdir / "mine.py"
    module.write_text(WORDS.format("old"))
    server = await fleet("--processes", "2", handlers="mine:handlers")
    before = {process.pid for process in processes_of(server).values()}

    async def word() -> object:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            job_id = (await client.post("/jobs", json={"type": "word"})).json()["id"]
            return (await client.get(f"/jobs/{job_id}", params={"wait": 20})).json()["result"]

    assert await word() == "old"
    module.write_text("this is no Python")
    server.send(signal.SIGHUP)
    await eventually(lambda: '"event":"reload_failed"' in server.stderr)
    assert re.search('"event":"reload_failed".*SyntaxError', server.stderr)
    assert {process.pid for process in processes_of(server).values()} == before
    assert await word() == "old"

    # Of another length: Python tells by time and size whether to compile a file again.
    module.write_text(WORDS.format("newer"))
    server.send(signal.SIGHUP)
    await eventually(lambda: server.stderr.count('"event":"server_stopped"') == 2, within=60)
    assert await word() == "newer"
    assert await server.stop() == 0


async def test_a_closed_terminal_is_one_wish_to_drain_however_often_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell says it, and the system; a signal that comes then is the first."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    settings = Settings(database_url="postgresql://localhost/none", redis_url="redis://localhost", processes=2)
    parent = Parent(settings, with_banner=False)
    parent._on_hangup()
    assert (parent._reloading.is_set(), parent._stopping.is_set()) == (True, False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    parent._on_hangup()
    parent._on_hangup()
    assert parent._stopping.is_set()
    parent._on_stop(signal.SIGTERM)
    assert not parent._hurrying.is_set()
    parent._on_stop(signal.SIGTERM)
    assert parent._hurrying.is_set()


async def test_what_is_wrong_with_the_configuration_is_said_once(
    shared_engines: tuple[str, ...], workdir: Path
) -> None:
    (workdir / "broken.py").write_text("1 / 0\n")
    refused = await command("serve", "broken:handlers", *shared_engines, "--port", "0", "--processes", "3", cwd=workdir)
    assert (refused.code, refused.out) == (2, "")
    [line] = refused.err.splitlines()
    assert re.fullmatch(r"jobserver: .*ZeroDivisionError.*\.", line)


async def test_a_port_that_others_listen_on_is_refused_at_once(
    fleet: Serve, shared_engines: tuple[str, ...], workdir: Path
) -> None:
    server = await fleet("--processes", "2", "--workers", "1")
    port = server.url.rpartition(":")[2]
    for processes in ("1", "2"):
        arguments = ("serve", *shared_engines, "--port", port, "--processes", processes)
        refused = await command(*arguments, cwd=workdir)
        assert refused.code == 2
        [line] = refused.err.splitlines()
        assert f"port {port}: Address already in use" in line


async def test_a_parent_that_is_stopped_while_it_starts_ends_well(
    shared_engines: tuple[str, ...], workdir: Path, tmp_path: Path
) -> None:
    (workdir / "slow.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    arguments = ("slow:handlers", *shared_engines, "--processes", "2")
    server = await ServerProcess.start(arguments, cwd=workdir, log=tmp_path / "log")
    try:
        await eventually((workdir / "importing").exists)
        server.send(signal.SIGTERM)
        assert await server.exit_code(within=10) == 0
        assert "Traceback" not in server.stderr
    finally:
        await server.end()


def test_the_parent_loads_nothing_of_the_server() -> None:
    code = (
        "import sys, jobserver.cli.parent, jobserver.telemetry.logs; "
        "print({'litestar', 'sqlalchemy', 'redis', 'asyncpg', 'uvicorn', 'jobserver.server'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "set()\n"


async def test_processes_without_http_share_the_jobs(fleet: Serve, notes: Notes) -> None:
    server = await fleet("--processes", "2", "--workers", "2", "--no-http")
    api = await fleet("--workers", "0")
    jobs = await api.submit_all([{"type": "gated", "payload": notes.gated} for _ in range(4)])
    await eventually(lambda: len(notes.all()) == 4)
    notes.open_gate()
    await api.all_finished(jobs)
    assert {note["pid"] for note in notes.all()} == {process.pid for process in processes_of(server).values()}
    assert await server.stop() == 0
