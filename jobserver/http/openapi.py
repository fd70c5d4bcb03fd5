"""The OpenAPI 3.1 document, made of the operations and of the structs that they decode and encode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from jobserver import __version__
from jobserver.http.body import BATCH_BYTES, Nothing
from jobserver.http.operations import Answer, Header, Operation
from jobserver.job.wire import NAME_PATTERN, Problem
from jobserver.pipeline.credentials import COOKIE

Json = dict[str, Any]

DESCRIPTION: Final = f"""\
A 2xx answer to a submit means: the job is committed. A 503 means: not acknowledged, repeat it with the same
idempotency key.

Times are RFC 3339 in UTC, by the database's clock. HEAD is answered wherever GET is. A method that a path does not
know is 405, with Allow. Errors are `application/problem+json`; unknown fields of a body and unknown query parameters
are errors too. The paths in `errors` start at the body (`$.delay`); `$.query.limit`, `$.headers.idempotency-key` and
`$.path.name` are elsewhere. A batch has at most {BATCH_BYTES // 1_048_576} MiB.

Calls that take no body accept none, or `{{}}`.

Once there are API keys, each call but those of `/health`, the page and its session needs one with the scope that
`x-access` names, or a wider one: read, submit, admin. It is sent as `Authorization: Bearer KEY`, by browsers in a
cookie. Tracebacks are shown to admin alone.
"""

PATH_PARAMETERS: Final[Mapping[str, Json]] = {
    "job_id": {"type": "string", "format": "uuid"},
    "name": {"type": "string", "pattern": NAME_PATTERN},
}

_JOB: Final[Json] = {
    "id": "019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11",
    "type": "email.send",
    "queue": "default",
    "priority": "normal",
    "status": "queued",
    "payload": {"to": "user@example.com"},
    "result": None,
    "error": None,
    "attempt": 0,
    "retry_count": 0,
    "max_retries": 3,
    "crashes": 0,
    "fence": 0,
    "timeout": 60.0,
    "idempotency_key": "order-42-email",
    "tags": ["billing"],
    "progress": None,
    "callback_url": None,
    "created_at": "2026-03-07T10:00:00.123456Z",
    "updated_at": "2026-03-07T10:00:00.123456Z",
    "run_at": "2026-03-07T10:00:00.123456Z",
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
    "worker_id": None,
    "lease_expires_at": None,
    "cancel_requested": False,
    "trace_id": None,
}

# Examples by the name of their schema. A test checks each against it.
EXAMPLES: Final[Mapping[str, Json]] = {
    "SubmitBody": {
        "type": "email.send",
        "payload": {"to": "user@example.com"},
        "idempotency_key": "order-42-email",
        "tags": ["billing"],
    },
    "BatchBody": {"jobs": [{"type": "echo", "payload": 1}, {"type": "echo", "payload": 2, "delay": 30}]},
    "ReplayBody": {"type": "email.send", "limit": 100, "dry_run": True},
    "JobView": _JOB,
    "JobPage": {
        "items": [_JOB],
        "total": 1,
        "total_capped": False,
        "limit": 20,
        "offset": 0,
        "next_cursor": None,
        "partial": False,
    },
    "ActionBody": {"action": "cancel", "filter": {"status": ["queued"], "type": "email.send"}, "dry_run": True},
    "WhyView": {
        "id": _JOB["id"],
        "status": "queued",
        "summary": "The queue mail is paused: none of its jobs starts.",
        "reasons": [
            {
                "code": "queue_paused",
                "message": "The queue mail is paused: none of its jobs starts.",
                "hint": "Resume it: POST /queues/mail/resume, or `jobserver queues resume mail`.",
                "figures": {"queue": "mail"},
            },
            {
                "code": "jobs_ahead",
                "message": "It is behind 12 jobs of the queue mail.",
                "hint": "Older ones, and those with a higher priority, go first.",
                "figures": {"ahead": 12, "capped": False, "rate_per_second": 4.2, "seconds": None},
            },
        ],
    },
    "Problem": {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "$.delay: Expected `float` >= 0.0",
        "errors": [{"path": "$.delay", "message": "Expected `float` >= 0.0"}],
    },
}

# What holds between the fields of a body, which their types cannot say. The routes check it.
RULES: Final[Mapping[str, Json]] = {
    "SubmitBody": {
        "not": {
            "required": ["delay", "run_at"],
            "properties": {"delay": {"type": "number"}, "run_at": {"type": "string"}},
        }
    },
    "ActionBody": {
        # Either of the two. Said by `not`, as below.
        "not": {
            "anyOf": [
                {"properties": {"filter": {"type": "null"}, "ids": {"type": "null"}}},
                {
                    "required": ["filter", "ids"],
                    "properties": {"filter": {"type": "object"}, "ids": {"type": "array"}},
                },
                # A list of ids has no second page.
                {
                    "required": ["cursor"],
                    "properties": {"cursor": {"type": "string"}, "filter": {"type": "null"}},
                },
            ]
        }
    },
    "FilterBody": {
        "not": {
            "properties": {
                **{
                    name: {"type": "null"}
                    for name in ("type", "queue", "tag", "created_after", "created_before", "q", "error", "fingerprint")
                },
                "status": {"maxItems": 0},
            }
        }
    },
    "ReplayBody": {
        # Not all of them absent. Said by `not`, because generators of clients make other models of an `anyOf`.
        "not": {
            "properties": {
                **{name: {"type": "null"} for name in ("type", "queue", "fingerprint", "ids")},
                "all": {"const": False},
            }
        }
    },
}

# What an answer leads to: each operation is called with the job of the body, or the next page.
_JOB_LINKS: Final = (
    "show_job",
    "list_attempts",
    "explain_job",
    "cancel_job",
    "retry_job",
    "replay_dead_letter",
    "delete_dead_letter",
)
_ID: Final[Json] = {"job_id": "$response.body#/id"}
LINKS: Final[Mapping[str, Mapping[str, Json]]] = {
    **{
        name: {link: {"operationId": link, "parameters": _ID} for link in _JOB_LINKS if link != name}
        for name in ("submit_job", "cancel_job", "retry_job", "replay_dead_letter")
    },
    **{
        name: {"next_page": {"operationId": name, "parameters": {"cursor": "$response.body#/next_cursor"}}}
        for name in ("list_jobs", "list_dead_letters")
    },
    "submit_batch": {
        "show_job": {"operationId": "show_job", "parameters": {"job_id": "$response.body#/jobs/0/id"}},
    },
    "pause_queue": {
        "resume_queue": {"operationId": "resume_queue", "parameters": {"name": "$request.path.name"}},
    },
}

_REF: Final = "#/components/schemas/{name}"
_PROBLEM_HEADERS: Final[Mapping[int, tuple[Header, ...]]] = {
    401: (Header("WWW-Authenticate", "`Bearer`; with an error where a key was sent that is not valid."),),
    429: (
        Header("Retry-After", "Seconds until there is more.", {"type": "integer"}),
        Header("RateLimit-Policy", "The quota `q` in a window of `w` seconds."),
        Header("RateLimit", "What is left of it, `r`, and in how many seconds `t` there is more."),
    ),
    503: (Header("Retry-After", "Seconds to wait before the next try.", {"type": "integer"}),),
}


def document(operations: Sequence[Operation]) -> Json:
    """The document of these operations, as JSON values."""
    kinds = {kind.__name__: kind for declared in operations for kind in _kinds(declared)}
    queries = [declared.query for declared in operations if declared.query is not Nothing]
    references, schemas = msgspec.json.schema_components([*kinds.values(), *queries], ref_template=_REF)
    names = [reference["$ref"].rpartition("/")[2] for reference in references[len(kinds) :]]
    properties = {query: schemas[name]["properties"] for query, name in zip(queries, names, strict=True)}
    for name in names:
        schemas.pop(name, None)
    for name, example in EXAMPLES.items():
        schemas[name]["examples"] = [example]
    for name, rule in RULES.items():
        schemas[name].update(rule)
    paths: dict[str, Json] = {}
    for declared in operations:
        entry = _operation(declared, properties.get(declared.query, {}))
        paths.setdefault(declared.path, {})[declared.method.lower()] = entry
    problems = sorted({status for declared in operations for status in declared.problems})
    tags = dict.fromkeys(declared.tag for declared in operations)
    found: Json = {
        "openapi": "3.1.0",
        "info": {"title": "jobserver", "version": __version__, "description": DESCRIPTION},
        "servers": [{"url": "/", "description": "This server."}],
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {_problem_name(status): _problem(status) for status in problems},
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Nobody needs one while none was ever made.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "The session of a browser, made by `POST /session`. Needs `Sec-Fetch-Site: "
                    "same-origin`, or an `Origin` that is this server, for all but GET and HEAD.",
                },
            },
        },
    }
    return {key: _told(value) for key, value in found.items()}


def _kinds(declared: Operation) -> Iterable[type[msgspec.Struct]]:
    yield Problem
    if declared.body is not Nothing:
        yield declared.body
    for answer in declared.answers:
        if answer.kind is not None:
            yield answer.kind


def _operation(declared: Operation, query: Mapping[str, Json]) -> Json:
    in_path = re.findall(r"{(\w+)}", declared.path)
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": PATH_PARAMETERS[name]} for name in in_path),
        *(_query_parameter(name, schema) for name, schema in query.items()),
        *(
            {"name": header.name, "in": "header", "description": header.description, "schema": header.schema}
            for header in declared.headers
        ),
    ]
    entry: Json = {
        "operationId": declared.name,
        "summary": declared.summary,
        "tags": [declared.tag],
        "x-access": declared.access,
    }
    if declared.access != "open":
        # The last one: nothing at all, while no key was ever made.
        entry["security"] = [{"apiKey": []}, {"session": []}, {}]
    if declared.description:
        entry["description"] = declared.description
    if parameters:
        entry["parameters"] = parameters
    if declared.body is not Nothing:
        schema = {"$ref": _REF.format(name=declared.body.__name__)}
        entry["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    entry["responses"] = {
        **{str(answer.status): _answer(answer, LINKS.get(declared.name)) for answer in declared.answers},
        **{str(status): {"$ref": f"#/components/responses/{_problem_name(status)}"} for status in declared.problems},
    }
    return entry


def _query_parameter(name: str, schema: Json) -> Json:
    """A parameter is left out, never null."""
    schema = dict(schema)
    parameter: Json = {"name": name, "in": "query"}
    if description := schema.pop("description", None):
        parameter["description"] = description
    if "anyOf" in schema:
        (only,) = [part for part in schema.pop("anyOf") if part != {"type": "null"}]
        schema = {**only, **schema}
    if schema.get("default", ...) in (None, (), []):
        del schema["default"]
    return {**parameter, "schema": schema}


def _answer(answer: Answer, links: Mapping[str, Json] | None) -> Json:
    schema: Json = {"type": "string"}
    if answer.kind is not None:
        schema = {"$ref": _REF.format(name=answer.kind.__name__)}
    found: Json = {"description": answer.description}
    if answer.headers:
        found["headers"] = {header.name: _header(header) for header in answer.headers}
    if answer.media_types:
        found["content"] = {media_type: {"schema": schema} for media_type in answer.media_types}
    if links:
        found["links"] = dict(links)
    return found


def _problem(status: int) -> Json:
    found: Json = {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    if headers := _PROBLEM_HEADERS.get(status):
        found["headers"] = {header.name: _header(header) for header in headers}
    return found


def _problem_name(status: int) -> str:
    return HTTPStatus(status).phrase.replace(" ", "")


def _header(header: Header) -> Json:
    return {"description": header.description, "schema": header.schema}


def _told(value: Any, key: str = "") -> Any:
    """`value` in the words of JSON Schema: its patterns have no \\Z, its texts no line breaks of a docstring."""
    if isinstance(value, dict):
        return {key: _told(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_told(item) for item in value]
    if key == "pattern" and isinstance(value, str):
        return value.replace(r"\Z", "$")
    if key == "description" and isinstance(value, str):
        paragraphs = (" ".join(paragraph.split()) for paragraph in value.split("\n\n"))
        return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return value
