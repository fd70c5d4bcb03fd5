"""`jobserver serve` as a process of its own, and what a test asks of it over HTTP.

Whatever is started here is ended by its process id, also when the test failed or the tests' process died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import httpx
import msgspec
import psutil  # type: ignore[import-untyped,unused-ignore]

from tests.children import environment
from tests.engines import eventually

COMMAND: Final = (sys.executable, "-m", "jobserver")
COMMAND_SECONDS: Final = 40.0
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
# Asked to end first, so that it ends its engines too; a process that hangs is killed.
_GUARD: Final = 'read _; kill -TERM "$1" 2>/dev/null; sleep 10; kill -9 "$1" 2>/dev/null'
_BANNER: Final = re.compile(r"^jobserver \S+  (http://\S+|no HTTP API.*)$", re.MULTILINE)
_TERMINAL: Final = frozenset({"completed", "failed", "canceled"})


class Ended(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str


async def command(*arguments: str, cwd: Path, **variables: str) -> Ended:
    """Run `jobserver ...` to its end."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class ServerProcess:
    """One `jobserver serve`, from `start` to `end`. It leads a process group of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process: Final = process
        self._log: Final = log
        self._guard: Final = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._children: set[psutil.Process] = set()
        self._client: httpx.AsyncClient | None = None
        self.url = ""

    @classmethod
    async def start(cls, arguments: Sequence[str], *, cwd: Path, log: Path, **variables: str) -> Self:
        """Start, on a free port unless told otherwise. `started` waits for it."""
        with open(log, "wb") as stderr:
            process = subprocess.Popen(
                [*COMMAND, "serve", "--port", "0", *arguments],
                cwd=cwd,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
            )
        return cls(process, log)

    async def started(self) -> Self:
        """Return when it has said where it listens, or that it does not."""

        def said() -> re.Match[str] | None:
            assert self._process.poll() is None, f"it ended: {self.stderr}"
            return _BANNER.search(self.stderr)

        found = await eventually(said, within=START_SECONDS)
        assert isinstance(found, re.Match)
        self._note_children()
        if found[1].startswith("http"):
            self.url = found[1]
            self._client = httpx.AsyncClient(base_url=self.url, timeout=60.0, trust_env=False, verify=False)
        return self

    # the process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def stderr(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def children(self) -> list[psutil.Process]:
        """Its child processes: an embedded Valkey, and those that run handlers."""
        self._note_children()
        return [child for child in self._children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """As a terminal does."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """kill -9 of this one process: what it started lives on."""
        self._note_children()
        self._process.kill()
        self._process.wait(STOP_SECONDS)

    async def exit_code(self, within: float = STOP_SECONDS) -> int:
        """Wait for its end."""
        await eventually(lambda: self._process.poll() is not None, within=within)
        return int(self._process.returncode)

    async def stop(self) -> int:
        """SIGTERM, and wait for the end."""
        self.send(signal.SIGTERM)
        return await self.exit_code()

    async def end(self) -> None:
        """Whatever state it is in: end it and what it started. Repeating it does nothing."""
        self._note_children()
        if self.running:
            self.kill()
        for child in self._children:
            # psutil compares the start times too: the id may be another process's by now.
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._guard.kill()
        self._guard.communicate()
        if self._client is not None:
            await self._client.aclose()

    def _note_children(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._children.update(psutil.Process(self.pid).children(recursive=True))

    # over HTTP

    @contextlib.asynccontextmanager
    async def asked_here(self) -> AsyncIterator[Self]:
        """With a client of the present event loop: for tests that share a process."""
        async with httpx.AsyncClient(base_url=self.url, timeout=60.0, trust_env=False) as self._client:
            yield self
        self._client = None

    @property
    def http(self) -> httpx.AsyncClient:
        assert self._client is not None, "this process does not serve HTTP"
        return self._client

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def submit(self, type_: str, payload: object = None, **fields: object) -> str:
        """Submit a job that is accepted; its id."""
        answer = await self.http.post("/jobs", json={"type": type_, "payload": payload, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def submit_all(self, bodies: Iterable[dict[str, object]]) -> list[str]:
        """Submit a batch that is accepted; the ids in order."""
        answer = await self.http.post("/jobs/batch", json={"jobs": list(bodies)})
        assert answer.status_code == 201, answer.text
        return [item["id"] for item in answer.json()["jobs"]]

    async def job(self, job_id: str) -> dict[str, Any]:
        found = await self.get(f"/jobs/{job_id}")
        assert isinstance(found, dict)
        return found

    async def finished(self, job_id: str, within: float = 20.0) -> dict[str, Any]:
        """The job, as soon as it is terminal."""
        job = await self.get(f"/jobs/{job_id}", wait=within)
        assert job["status"] in _TERMINAL, f"not within {within:g} s: {job}"
        assert isinstance(job, dict)
        return job

    async def all_finished(self, job_ids: Sequence[str], within: float = 30.0) -> list[dict[str, Any]]:
        """These jobs in order, as soon as all are terminal."""
        return list(await asyncio.gather(*(self.finished(job_id, within) for job_id in job_ids)))

    async def running_jobs(self) -> int:
        """How many jobs run, on all processes."""
        stats = await self.get("/admin/stats")
        return int(stats["by_status"]["running"])

    async def counts(self) -> dict[str, int]:
        """Jobs by status, those with none left out."""
        stats = await self.get("/admin/stats")
        return {status: count for status, count in stats["by_status"].items() if count}

    async def outcomes(self, job_id: str) -> list[str]:
        """How each attempt of a job ended, oldest first."""
        attempts = await self.get(f"/jobs/{job_id}/attempts")
        return [attempt["outcome"] for attempt in attempts["items"]]
