"""echo, sleep and fail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobserver.builtin import handlers
from jobserver.errors import Invalid
from jobserver.job.model import Outcome, Raised, Returned
from jobserver.pipeline.execute import Executor, ExecutorOptions
from jobserver.pipeline.running import Running
from tests.pipeline.attempts import claimed


async def run(job_type: str, payload: Any, **fields: Any) -> Outcome:
    options = ExecutorOptions(threads=1, processes=1, thread_grace_seconds=0, max_result_bytes=1_000)
    async with Executor(handlers, options, report_progress=lambda job, progress: None) as executor:
        return await executor.run(Running(claimed(job_type, payload, **fields)))


def test_the_types_are_there() -> None:
    assert {handler.type for handler in handlers} == {"echo", "sleep", "fail", "http.request"}


@pytest.mark.parametrize("payload", [None, [], {"attempt": 1}, "text", 1.5])
async def test_echo_returns_its_payload(payload: Any) -> None:
    assert await run("echo", payload) == Returned(msgspec.json.encode(payload))


async def test_sleep_takes_its_time() -> None:
    assert await run("sleep", {"seconds": 0.01}) == Returned(b"0.01")
    outcome = await run("sleep", {"seconds": 60}, timeout_seconds=0.05)
    assert isinstance(outcome, Raised)
    assert outcome.error.type == "Timeout"


@pytest.mark.parametrize("payload", [None, {"seconds": -1}, {"seconds": "1"}, {"seconds": 1e9}])
def test_sleep_refuses_what_is_no_time(payload: Any) -> None:
    handler = handlers.get("sleep")
    assert handler is not None
    with pytest.raises(Invalid):
        handler.decode(msgspec.json.encode(payload))


@pytest.mark.parametrize(
    ("payload", "number", "retryable"),
    [
        (None, 100, True),
        ({"times": 2}, 1, True),
        ({"times": 2}, 2, True),
        ({"times": 2}, 3, None),
        ({"times": 0}, 1, None),
        ({"retryable": False}, 1, False),
        ({"times": 1, "retryable": False}, 2, None),
    ],
)
async def test_fail_fails_as_often_as_it_is_told(payload: Any, number: int, retryable: bool | None) -> None:
    outcome = await run("fail", payload, attempt=number)
    if retryable is None:
        assert outcome == Returned(b'{"attempt":%d}' % number)
    else:
        assert isinstance(outcome, Raised)
        assert outcome.error.retryable is retryable
