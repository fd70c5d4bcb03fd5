"""Every refused request of the table, through the application: nothing of it gets past HTTP."""

from __future__ import annotations

import httpx
import pytest

from tests.http.canned import Canned, client_of
from tests.http.cases import (
    BAD_BATCHES,
    BAD_BODIES,
    BAD_REPLAYS,
    BAD_REQUESTS,
    JSON,
    BadBody,
    BadRequest,
    params,
)


async def refused(request: BadRequest) -> httpx.Response:
    """The answer, which is a problem that says what the row says. The Api was not asked."""
    canned = Canned()
    async with client_of(canned) as client:
        response = await client.request(
            request.method, request.target, headers=list(request.headers), content=request.data
        )
    assert response.status_code == request.status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == request.status
    assert problem["title"]
    assert problem["detail"]
    assert problem.get("errors", [{"path": None}])[0]["path"] == request.path
    assert "Traceback" not in response.text
    assert canned.asked == []
    return response


# The plain path is answered before Litestar, any other spelling of it by Litestar: both alike.
@pytest.mark.parametrize("path", ["/jobs", "/jobs/"])
@pytest.mark.parametrize("case", params(BAD_BODIES))
async def test_a_bad_submit(case: BadBody, path: str) -> None:
    await refused(post(path, case))


@pytest.mark.parametrize("case", params(BAD_BATCHES))
async def test_a_bad_batch(case: BadBody) -> None:
    await refused(post("/jobs/batch", case))


@pytest.mark.parametrize("case", params(BAD_REPLAYS))
async def test_a_bad_replay(case: BadBody) -> None:
    await refused(post("/dlq/replay", case))


@pytest.mark.parametrize("request_", params(BAD_REQUESTS))
async def test_a_bad_request(request_: BadRequest) -> None:
    response = await refused(request_)
    if response.status_code == 405:
        assert request_.method not in response.headers["allow"].split(", ")
        assert "OPTIONS" in response.headers["allow"].split(", ")


def post(target: str, case: BadBody) -> BadRequest:
    return BadRequest(
        name=case.name,
        method="POST",
        target=target,
        headers=(JSON,),
        data=case.data,
        status=case.status,
        path=case.path,
    )
