"""What has ended is told, also when the process that ended it died before it could."""

from __future__ import annotations

import re
from pathlib import Path

from standardwebhooks import Webhook

from tests.engines import eventually
from tests.life.conftest import Serve
from tests.life.process import command
from tests.web import WebServer, response

OPEN = ("--allow-private-targets", "--workers", "4")


def headers_of(head: str) -> dict[str, str]:
    lines = head.split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


async def test_an_end_whose_process_died_before_the_delivery_is_told(anywhere: Serve) -> None:
    async with WebServer(lambda head, body: response(200)) as receiver:
        first = await anywhere(*OPEN)
        assert (await first.http.post("/queues/callbacks/pause")).status_code == 200
        job_id = await first.submit("echo", {"n": 1}, callback_url=receiver.url())
        await first.finished(job_id)
        first.kill()
        second = await anywhere(*OPEN)
        assert receiver.requests == []
        assert (await second.http.post("/queues/callbacks/resume")).status_code == 200
        await eventually(lambda: len(receiver.requests) == 1, within=20)
        assert headers_of(receiver.requests[0][0])["webhook-id"] == f"{job_id}:2"


async def test_a_delivery_whose_process_died_is_repeated_under_the_same_id(alone: Serve, workdir: Path) -> None:
    """The first attempt dies with its process, before the receiver has answered; nothing of the secret is said."""
    taken: list[bytes] = []

    def answer(head: str, body: bytes) -> bytes | None:
        taken.append(body)
        if len(taken) == 1:
            first.kill()
            return None
        return response(200)

    async with WebServer(answer) as receiver:
        first = await alone(*OPEN, "--log-level", "debug")
        made = await command("secrets", "create", "--data-dir", str(workdir.parent / "data"), cwd=workdir)
        secret = made.out.strip()
        assert (made.code, made.err) == (0, "")
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
        job_id = await first.submit("echo", callback_url=receiver.url())
        await eventually(lambda: not first.running, within=20)
        second = await alone(*OPEN, "--log-level", "debug")
        await eventually(lambda: len(receiver.requests) == 2, within=20)
        for head, body in receiver.requests:
            headers = headers_of(head)
            assert headers["webhook-id"] == f"{job_id}:2"
            Webhook(secret).verify(body, headers)
        assert taken[0] == taken[1]

        async def told() -> list[dict[str, object]]:
            page = await second.get("/jobs", type="callback", status="completed")
            return [each for each in page["items"] if each["crashes"] == 1]

        await eventually(told)
        listed = await command("secrets", "list", "--data-dir", str(workdir.parent / "data"), cwd=workdir)
        assert secret not in listed.out
        for process in (first, second):
            assert secret.removeprefix("whsec_") not in process.stderr
            assert '"job_completed"' in process.stderr
