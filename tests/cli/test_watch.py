"""`jobserver watch`: a line an event, an exit code for the job."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import pytest

from tests.cli.conftest import Command
from tests.cli.process import Ended
from tests.client.feeds import JOB, STREAM, Feed, job, message
from tests.client.test_client import job_body

PROGRESS = {"id": str(JOB), "progress": {"percent": 50, "message": "half\x1b[2J"}, "at": "2026-03-07T10:00:01Z"}


def body(status: str) -> bytes:
    answer = job_body(status)
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer


async def watch(command: Command, feed: Feed, *args: str) -> Ended:
    async with feed.serving():
        return await asyncio.to_thread(command.run, "watch", *args, "--url", feed.url)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("canceled", 1)])
async def test_a_job_is_watched_to_its_end(alone: Command, status: str, code: int) -> None:
    feed = Feed([STREAM, job(0, "queued"), job(1), message("progress", PROGRESS), job(2, status)], [body(status)])
    done = await watch(alone, feed, str(JOB))
    assert done.code == code
    assert [line.split()[1] for line in done.out.splitlines()] == ["queued", "running", "running", status]
    assert "50 % half\\x1b[2J" in done.out
    assert (done.err == "") is (code == 0)


async def test_json_is_an_object_a_line(alone: Command) -> None:
    sent = [STREAM, job(0, "queued", "x-1"), message("progress", PROGRESS), message("reset", {}), job(1, "completed")]
    done = await watch(alone, Feed(sent, [body("completed")]), str(JOB), "--json")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [each["event"] for each in found] == ["job", "progress", "reset", "job"]
    assert found[0]["status"] == "queued"
    assert UUID(found[0]["id"]) == JOB
    assert list(found[0]) == ["event", "id", "type", "queue", "status", "attempt", "fence", "at"]


async def test_a_job_that_is_deleted_meanwhile_is_told(alone: Command) -> None:
    gone = {"id": str(JOB), "type": "echo", "queue": "default", "fence": 3, "at": "2026-03-07T10:00:00Z"}
    done = await watch(alone, Feed([STREAM, job(2, "retrying"), message("deleted", gone)]), str(JOB))
    assert (done.code, [line.split()[1] for line in done.out.splitlines()]) == (1, ["retrying", "deleted"])
    assert "was deleted" in done.err


async def test_all_jobs_are_watched_with_filters(alone: Command) -> None:
    feed = Feed([STREAM, job(3, "failed"), message("reset", {})], [b"HTTP/1.1 204 No Content\r\n\r\n"])
    done = await watch(alone, feed, "--queue", "mail", "--status", "failed", "--status", "canceled")
    assert (done.code, done.err) == (0, "")
    assert feed.heads[0].startswith("GET /events?queue=mail&status=failed&status=canceled HTTP")
    assert "left out" in done.out


def test_one_job_has_no_filters(alone: Command) -> None:
    assert alone.run("watch", str(JOB), "--queue", "mail").code == 2


def test_what_is_no_id_is_told(alone: Command) -> None:
    done = alone.run("watch", "123")
    assert (done.code, done.out) == (1, "")
