"""The OpenAPI document is valid, whole and true; the page for people says the same and loads nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis.specs.openapi.definitions import OPENAPI_31

from jobserver.http.app import OPERATIONS
from jobserver.http.openapi import EXAMPLES, document
from tests.http.canned import JOB, Canned, client_of
from tests.http.cases import BAD_BODIES, UNKNOWN_ID

DOCUMENT: dict[str, Any] = document(OPERATIONS)


def validator(name: str) -> Draft202012Validator:
    """Checks a value against a schema of the document."""
    resource = DRAFT202012.create_resource(DOCUMENT)
    registry: Registry[Any] = Registry().with_resource("urn:api", resource)
    return Draft202012Validator({"$ref": f"urn:api#/components/schemas/{name}"}, registry=registry)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_document_is_openapi() -> None:
    Draft202012Validator(OPENAPI_31).validate(DOCUMENT)


def test_every_reference_leads_somewhere() -> None:
    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_every_link_leads_to_an_operation_with_its_parameters() -> None:
    parameters = {
        entry["operationId"]: {parameter["name"] for parameter in entry.get("parameters", ())}
        for methods in DOCUMENT["paths"].values()
        for entry in methods.values()
    }
    links = [
        link
        for methods in DOCUMENT["paths"].values()
        for entry in methods.values()
        for answer in entry["responses"].values()
        for link in answer.get("links", {}).values()
    ]
    assert links
    for link in links:
        assert set(link["parameters"]) <= parameters[link["operationId"]], link


def test_no_schema_is_left_over() -> None:
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert used >= set(DOCUMENT["components"]["schemas"])


def test_every_schema_is_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_its_schema(name: str) -> None:
    validator(name).validate(EXAMPLES[name])


def test_patterns_are_those_of_json_schema() -> None:
    assert r"\Z" not in str(DOCUMENT)


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"type": "echo"}, True),
        ({"type": "echo", "delay": 1, "run_at": None}, True),
        ({"type": "echo", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, False),
        ({"type": "echo", "tags": [""]}, False),
        ({"type": "a b"}, False),
        ({"type": "echo", "callback": None}, False),
        ({"type": "echo", "callback_url": None}, True),
        ({"type": "echo", "callback_url": "ftp://example.org/"}, False),
    ],
)
def test_the_document_tells_valid_bodies_from_invalid_ones(body: dict[str, Any], valid: bool) -> None:
    assert validator("SubmitBody").is_valid(body) is valid


def test_every_operation_documents_the_problems_that_it_can_answer() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for method, entry in methods.items():
            expected = {"403", "422"} | ({"404"} if "{job_id}" in path else set())
            if method != "get":
                expected |= {"400", "408", "413", "415"}
            assert expected <= set(entry["responses"]), f"{method} {path}"


async def test_every_documented_method_is_routed_and_no_other() -> None:
    async with client_of(Canned()) as client:
        for path, methods in DOCUMENT["paths"].items():
            concrete = path.replace("{job_id}", UNKNOWN_ID).replace("{name}", "mail")
            response = await client.options(concrete)
            documented = {method.upper() for method in methods}
            extra = {"OPTIONS", "HEAD"} if "GET" in documented else {"OPTIONS"}
            assert set(response.headers["allow"].split(", ")) == documented | extra


async def test_the_document_and_the_page_are_served() -> None:
    async with client_of(Canned()) as client:
        response = await client.get("/schema/openapi.json")
        assert response.headers["content-type"] == "application/json"
        assert response.json() == DOCUMENT
        page = await client.get("/schema")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_the_page_is_whole_and_loads_nothing() -> None:
    async with client_of(Canned()) as client:
        page = (await client.get("/schema")).text
    tags = Tags()
    tags.feed(page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    links = [attributes["href"] for tag, attributes in tags.found if tag == "a"]
    assert all(link.startswith("#") or link == "/schema/openapi.json" for link in links)
    anchors = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors
    assert {declared.name for declared in OPERATIONS} <= anchors
    assert not re.search(r"url\(|@import", page)


async def test_the_documented_job_is_the_job_that_is_answered() -> None:
    async with client_of(Canned(job=JOB)) as client:
        shown = (await client.get(f"/jobs/{UNKNOWN_ID}")).json()
    validator("JobView").validate(shown)
    assert list(shown) == list(DOCUMENT["components"]["schemas"]["JobView"]["properties"])


async def test_problems_are_as_documented() -> None:
    async with client_of(Canned()) as client:
        for case in BAD_BODIES:
            response = await client.post("/jobs", content=case.data)
            validator("Problem").validate(response.json())
            assert str(response.status_code) in DOCUMENT["paths"]["/jobs"]["post"]["responses"]


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
