"""What the standards ask for, clause by clause: the Idempotency-Key draft and RFC 9457.

draft-ietf-httpapi-idempotency-key-header-07, https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from jobserver.http.app import OPERATIONS
from jobserver.http.openapi import document

KEY = "8e03978e-40d5-43e8-bc93-6894a57f9324"
JOB = {"type": "echo", "payload": {"n": 1}, "delay": 3_600}


@pytest.fixture
async def http(server: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server) as client:
        yield client


async def submit(http: httpx.AsyncClient, key: str | None, body: dict[str, Any] = JOB) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await http.post("/jobs", json=body, headers=headers)


async def total(http: httpx.AsyncClient) -> int:
    return int((await http.get("/jobs")).json()["total"])


# The Idempotency-Key header.


@pytest.mark.parametrize("value", [f'"{KEY}"', f'"{KEY}";v=1', f'"{KEY}"; a="b"; c', KEY])
async def test_idempotency_2_1_the_value_is_a_string_of_structured_headers(http: httpx.AsyncClient, value: str) -> None:
    # Bare too: many clients send it so.
    answer = await submit(http, value)
    assert (answer.status_code, answer.json()["idempotency_key"]) == (201, KEY)


@pytest.mark.parametrize("value", ['"open', '"a"b"', '""', '"a" b', '"\\a"', "k" * 256])
async def test_idempotency_2_1_what_is_no_string_is_refused(http: httpx.AsyncClient, value: str) -> None:
    answer = await submit(http, value)
    assert (answer.status_code, await total(http)) == (422, 0)
    assert answer.json()["errors"][0]["path"] == "$.headers.idempotency-key"


async def test_idempotency_2_2_a_key_is_not_reused_with_another_payload(http: httpx.AsyncClient) -> None:
    await submit(http, KEY)
    answer = await submit(http, KEY, {**JOB, "payload": {"n": 2}})
    assert (answer.status_code, await total(http)) == (422, 1)


async def test_idempotency_2_3_the_expiry_of_keys_is_published() -> None:
    # Keys live 24 hours unless configured: the README's table of options says so, tested with the other options.
    from jobserver.settings import Settings

    assert Settings().idempotency_ttl == 86_400


async def test_idempotency_2_4_the_fingerprint_is_of_what_is_meant(http: httpx.AsyncClient) -> None:
    first = await submit(http, KEY)
    text = '{"delay": 3600.0, "queue": null, "payload" : {"n":1}, "type":"echo", "tags": []}'
    same = await http.post("/jobs", content=text, headers={"Idempotency-Key": KEY, "Content-Type": "application/json"})
    assert (same.status_code, same.json()["id"]) == (200, first.json()["id"])


async def test_idempotency_2_6_a_first_request_is_processed(http: httpx.AsyncClient) -> None:
    answer = await submit(http, KEY)
    assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)


async def test_idempotency_2_6_a_duplicate_gets_the_result_of_the_first(http: httpx.AsyncClient) -> None:
    first, again = await submit(http, KEY), await submit(http, f'"{KEY}"')
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])
    assert await total(http) == 1


async def test_idempotency_2_6_concurrent_requests_make_one_job(http: httpx.AsyncClient) -> None:
    # The draft allows a conflict for those that come while the first is processed; ours wait for its commit.
    answers = await asyncio.gather(*(submit(http, KEY) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await total(http) == 1


async def test_idempotency_2_7_a_key_is_not_required(http: httpx.AsyncClient) -> None:
    assert [(await submit(http, None)).status_code for _ in range(2)] == [201, 201]
    assert await total(http) == 2


async def test_idempotency_2_7_a_reused_key_is_422_with_a_problem_type(http: httpx.AsyncClient) -> None:
    await submit(http, KEY)
    problem = (await submit(http, KEY, {**JOB, "queue": "other"})).json()
    assert (problem["status"], problem["type"]) == (422, "/problems/idempotency-key-reused")


# Problem details.

REFUSALS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "not JSON": ("POST", "/jobs", {"content": b"{"}, 400),
    "unknown job": ("GET", "/jobs/019a0000-0000-7000-8000-000000000000", {}, 404),
    "unknown path": ("GET", "/nowhere", {}, 404),
    "unknown method": ("PATCH", "/jobs", {}, 405),
    "another media type": ("POST", "/jobs", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415),
    "invalid": ("POST", "/jobs", {"json": {"type": "echo", "delay": -1}}, 422),
    "too large": ("POST", "/jobs", {"content": b" " * 2_000_000}, 413),
    "a foreign site": ("POST", "/jobs", {"json": JOB, "headers": {"origin": "https://evil.example"}}, 403),
}


@pytest.mark.parametrize(("method", "path", "options", "status"), REFUSALS.values(), ids=REFUSALS)
async def test_rfc9457_3_the_media_type_and_the_members(
    http: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    answer = await http.request(method, path, **options)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    # 3.1.1, 3.1.3 and 3.1.4: strings; 3.1.2: the number that HTTP itself answers with.
    assert {name: type(problem[name]) for name in ("type", "title", "detail")} == dict.fromkeys(
        ("type", "title", "detail"), str
    )
    assert answer.status_code == problem["status"] == status
    # 4.2.1: without a type of its own, the title is the phrase of the status.
    if problem["type"] == "about:blank":
        assert problem["title"] == HTTPStatus(status).phrase
    # 5: nothing of how it is built.
    assert not {"Traceback", ".py", "litestar", "msgspec"} & set(json.dumps(problem).split())


def test_rfc9457_3_1_1_types_are_about_blank_or_of_this_server() -> None:
    from jobserver.http import problems

    kinds = [value for name, value in vars(problems).items() if name.isupper() and str(value).startswith("/problems")]
    assert kinds
    assert all(kind.startswith("/problems/") and " " not in kind for kind in kinds)


async def test_rfc9457_3_1_4_the_detail_helps_to_correct_the_request(http: httpx.AsyncClient) -> None:
    problem = (await http.post("/jobs", json={"type": "echo", "delay": -1})).json()
    assert problem["detail"] == "$.delay: Expected `float` >= 0.0"


async def test_rfc9457_3_2_the_extension_names_each_error_by_a_path(http: httpx.AsyncClient) -> None:
    problem = (await http.post("/jobs/batch", json={"jobs": [JOB, {"type": 1}]})).json()
    assert problem["errors"] == [{"path": "$.jobs[1].type", "message": "Expected `str`, got `int`"}]
    assert set(problem) == {"type", "title", "status", "detail", "errors"}


def test_rfc9457_a_every_problem_of_the_document_has_its_media_type_and_schema() -> None:
    responses = document(OPERATIONS)["components"]["responses"]
    assert responses
    for response in responses.values():
        assert response["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
