"""The handlers of the torture. Each run tells its start and end to a file outside of the system under test.

One file a process, one `write` a line to a descriptor in append mode: whatever happens to the process, what was
written before stays, and no line is torn.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jobserver.errors import NotRetryable, Snooze
from jobserver.job.attempt import Attempt
from jobserver.job.handlers import Handlers
from jobserver.torture import clock
from jobserver.torture.history import Run

FOLDER_VARIABLE: Final = "TORTURE_ORACLE"
REFERENCE: Final = "jobserver.torture.oracle:handlers"

# In a child process of a server whose clock is moved, which starts with a right one.
clock.shift_as_told()

handlers = Handlers()
_files: dict[int, int] = {}


@handlers.handler("torture.work")
async def work(attempt: Attempt, seconds: float) -> int:
    with logged(attempt):
        await asyncio.sleep(seconds)
        return attempt.fence


@handlers.handler("torture.slow")
async def slow(attempt: Attempt, seconds: float) -> int:
    with logged(attempt):
        for step in range(10):
            attempt.progress(step * 10)
            await asyncio.sleep(seconds / 10)
        return attempt.fence


@handlers.handler("torture.thread")
def thread(attempt: Attempt, seconds: float) -> int:
    with logged(attempt):
        time.sleep(seconds)
        return attempt.fence


@handlers.handler("torture.process", executor="process")
def process(attempt: Attempt, seconds: float) -> int:
    with logged(attempt):
        time.sleep(seconds)
        return attempt.fence


@handlers.handler("torture.flaky")
async def flaky(attempt: Attempt, times: int) -> int:
    with logged(attempt):
        if attempt.number <= times:
            raise ValueError(f"attempt {attempt.number} of a flaky job")
        return attempt.fence


@handlers.handler("torture.snooze")
async def snooze(attempt: Attempt, times: int) -> int:
    with logged(attempt):
        # The first claim has fence 1; each one after it two more.
        if attempt.fence < 2 * times:
            raise Snooze(seconds=0.3)
        return attempt.fence


@handlers.handler("torture.fail")
async def fail(attempt: Attempt) -> None:
    with logged(attempt):
        raise NotRetryable("as it was asked to")


@handlers.handler("torture.block")
async def block(attempt: Attempt, seconds: float) -> int:
    """Holds up the event loop, which no handler should do."""
    with logged(attempt):
        time.sleep(seconds)  # noqa: ASYNC251
        return attempt.fence


@handlers.handler("torture.hang")
async def hang(attempt: Attempt, seconds: float) -> int:
    """As `block`, for so long that the process counts as hung."""
    return await block(attempt, seconds)


@handlers.handler("torture.poison")
async def poison(attempt: Attempt) -> None:
    """Kills the process that runs it."""
    with logged(attempt):
        os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(60)


@contextmanager
def logged(attempt: Attempt) -> Iterator[None]:
    """Tell the start and the end of this run."""
    _tell("S", attempt, attempt.type)
    how = "returned"
    try:
        yield
    except asyncio.CancelledError:
        how = "cancelled"
        raise
    except BaseException:
        how = "raised"
        raise
    finally:
        _tell("E", attempt, how)


def _tell(what: str, attempt: Attempt, word: str) -> None:
    line = f"{what} {attempt.job_id} {attempt.fence} {os.getpid()} {clock.true_time_ns()} {word}\n"
    os.write(_file(), line.encode())


def _file() -> int:
    pid = os.getpid()
    if pid not in _files:
        # Two threads that come first at once open it twice, and append to the same file.
        path = Path(os.environ[FOLDER_VARIABLE]) / f"{pid}.log"
        _files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return _files[pid]


def read_runs(folder: Path) -> tuple[Run, ...]:
    """What all processes have told so far."""
    started: dict[tuple[str, int, int], list[Run]] = {}
    for path in sorted(folder.glob("*.log")):
        for line in path.read_text(encoding="ascii").splitlines():
            what, job_id, fence, pid, at, word = line.split()
            run = (job_id, int(fence), int(pid))
            moment = int(at) / 1e9
            if what == "S":
                begun = Run(job_id=job_id, fence=run[1], pid=run[2], started=moment, type=word)
                started.setdefault(run, []).append(begun)
            else:
                begun = started[run].pop()
                ended = Run(
                    job_id=job_id,
                    fence=run[1],
                    pid=run[2],
                    started=begun.started,
                    type=begun.type,
                    ended=moment,
                    how=word,
                )
                started[run].append(ended)
    return tuple(run for runs in started.values() for run in runs)
