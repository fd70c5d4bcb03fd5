"""Requests that are refused, and how: one row a reason. Run through the decoder, the application and a server."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

JSON: Final = ("content-type", "application/json")
UNKNOWN_ID: Final = "019a3f0e-5a7c-7c41-b6a4-0d6c9a3f2e11"


class BadBody(msgspec.Struct, frozen=True):
    """The body of a submit: what it is answered with, and at which path."""

    name: str
    data: bytes
    status: int
    path: str | None = None


class BadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Any other request that is refused."""

    name: str
    method: str = "GET"
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    data: bytes = b""
    status: int
    path: str | None = None


def nested(levels: int, open_: bytes = b"[", close: bytes = b"]") -> bytes:
    return b'{"type":"echo","payload":%s%s}' % (open_ * levels, close * levels)


def field(**values: Any) -> bytes:
    return json.dumps({"type": "echo", **values}).encode()


BAD_BODIES: Final = (
    # Not JSON.
    BadBody("empty", b"", 400),
    BadBody("only blanks", b" \n\t ", 400),
    BadBody("not JSON at all", b"type=echo", 400),
    BadBody("cut off", b'{"type":"echo","payload":[1,2', 400),
    BadBody("NaN in the payload", b'{"type":"echo","payload":{"x":NaN}}', 400),
    BadBody("Infinity in the payload", b'{"type":"echo","payload":[Infinity]}', 400),
    BadBody("minus Infinity in the payload", b'{"type":"echo","payload":-Infinity}', 400),
    BadBody("NaN as the delay", b'{"type":"echo","delay":NaN}', 400),
    BadBody("NaN after a wrong type", b'{"type":1,"payload":NaN}', 400),
    BadBody("cut off after a wrong type", b'{"type":1,"payload":[', 400),
    BadBody("bad UTF-8 in the type", b'{"type":"\xff"}', 400),
    BadBody("bad UTF-8 in the payload", b'{"type":"echo","payload":"\xff"}', 400),
    BadBody("bad UTF-8 in a key of the payload", b'{"type":"echo","payload":{"\xff":1}}', 400),
    BadBody("an encoded surrogate in the payload", b'{"type":"echo","payload":"\xed\xa0\x80"}', 400),
    BadBody("bad UTF-8 after a wrong type", b'{"type":1,"payload":"\xff"}', 400),
    BadBody("bad UTF-8 in an unknown field", b'{"type":"echo","other":"\xff"}', 400),
    BadBody("a lone high surrogate in the type", b'{"type":"\\ud800"}', 400),
    BadBody("a lone high surrogate in the payload", b'{"type":"echo","payload":"\\ud800"}', 400),
    BadBody("a lone low surrogate in the payload", b'{"type":"echo","payload":["\\udc00 and more"]}', 400),
    BadBody("two high surrogates in the payload", b'{"type":"echo","payload":"\\ud800\\ud800"}', 400),
    BadBody("a lone surrogate as a key", b'{"type":"echo","payload":{"\\ud800":1}}', 400),
    BadBody("trailing bytes", b'{"type":"echo"} x', 400),
    BadBody("two documents", b'{"type":"echo"}{"type":"echo"}', 400),
    BadBody("a trailing comma", b'{"type":"echo",}', 400),
    BadBody("a trailing comma in the payload", b'{"type":"echo","payload":[1,]}', 400),
    BadBody("a leading zero", b'{"type":"echo","payload":01}', 400),
    BadBody("single quotes", b"{'type':'echo'}", 400),
    BadBody("a byte order mark", b'\xef\xbb\xbf{"type":"echo"}', 400),
    BadBody("a raw control character", b'{"type":"echo","payload":"\x01"}', 400),
    BadBody("a comment", b'{"type":"echo"/* */}', 400),
    # JSON, and not a job.
    BadBody("an array", b"[]", 422, "$"),
    BadBody("a string", b'"echo"', 422, "$"),
    BadBody("null", b"null", 422, "$"),
    BadBody("no type", b"{}", 422, "$"),
    BadBody("an unknown field", field(prio="high"), 422, "$"),
    BadBody("type null", b'{"type":null}', 422, "$.type"),
    BadBody("type a number", b'{"type":1}', 422, "$.type"),
    BadBody("type empty", b'{"type":""}', 422, "$.type"),
    BadBody("type with a blank", b'{"type":"a b"}', 422, "$.type"),
    BadBody("type with a trailing newline", b'{"type":"echo\\n"}', 422, "$.type"),
    BadBody("type with a NUL", b'{"type":"echo\\u0000"}', 422, "$.type"),
    BadBody("type that starts with a dot", b'{"type":".a"}', 422, "$.type"),
    BadBody("type not ASCII", '{"type":"é"}'.encode(), 422, "$.type"),
    BadBody("type over-long", field(type="a" * 129), 422, "$.type"),
    BadBody("queue over-long", field(queue="a" * 129), 422, "$.queue"),
    BadBody("queue with a slash", field(queue="a/b"), 422, "$.queue"),
    BadBody("queue with a NUL", field(queue="a\x00"), 422, "$.queue"),
    BadBody("priority unknown", field(priority="urgent"), 422, "$.priority"),
    BadBody("priority a number", field(priority=0), 422, "$.priority"),
    BadBody("delay negative", field(delay=-1), 422, "$.delay"),
    BadBody("delay over a year", field(delay=31_536_001), 422, "$.delay"),
    BadBody("delay a string", field(delay="5"), 422, "$.delay"),
    BadBody("delay true", field(delay=True), 422, "$.delay"),
    BadBody("delay beyond a float", b'{"type":"echo","delay":1e999}', 422, "$.delay"),
    BadBody("delay and run_at", field(delay=1, run_at="2030-01-01T00:00:00Z"), 422, "$.delay"),
    BadBody("run_at naive", field(run_at="2030-01-01T00:00:00"), 422, "$.run_at"),
    BadBody("run_at a number", field(run_at=1_900_000_000), 422, "$.run_at"),
    BadBody("run_at a date", field(run_at="2030-01-01"), 422, "$.run_at"),
    BadBody("run_at on no day", field(run_at="2030-02-30T00:00:00Z"), 422, "$.run_at"),
    BadBody("run_at in year 10000", field(run_at="10000-01-01T00:00:00Z"), 422, "$.run_at"),
    BadBody("run_at before year 1 in UTC", field(run_at="0001-01-01T00:00:00+23:59"), 422, "$.run_at"),
    BadBody("run_at after year 9999 in UTC", field(run_at="9999-12-31T23:59:59-23:59"), 422, "$.run_at"),
    BadBody("expires_at naive", field(expires_at="2030-01-01T00:00:00"), 422, "$.expires_at"),
    BadBody("expires_at beyond UTC", field(expires_at="9999-12-31T23:59:59-01:00"), 422, "$.expires_at"),
    BadBody("max_retries negative", field(max_retries=-1), 422, "$.max_retries"),
    BadBody("max_retries over 100", field(max_retries=101), 422, "$.max_retries"),
    BadBody("max_retries a float", field(max_retries=1.5), 422, "$.max_retries"),
    BadBody("max_retries beyond 64 bits", field(max_retries=2**70), 422, "$.max_retries"),
    BadBody("timeout zero", field(timeout=0), 422, "$.timeout"),
    BadBody("timeout negative", field(timeout=-0.5), 422, "$.timeout"),
    BadBody("timeout over a day", field(timeout=86_401), 422, "$.timeout"),
    BadBody("key empty", field(idempotency_key=""), 422, "$.idempotency_key"),
    BadBody("key over-long", field(idempotency_key="k" * 256), 422, "$.idempotency_key"),
    BadBody("key not ASCII", field(idempotency_key="ключ"), 422, "$.idempotency_key"),
    BadBody("key with a NUL", field(idempotency_key="a\x00b"), 422, "$.idempotency_key"),
    BadBody("key with a newline", field(idempotency_key="a\n"), 422, "$.idempotency_key"),
    BadBody("tags a string", field(tags="billing"), 422, "$.tags"),
    BadBody("tags too many", field(tags=["t"] * 21), 422, "$.tags"),
    BadBody("a tag empty", field(tags=["a", ""]), 422, "$.tags[1]"),
    BadBody("a tag over-long", field(tags=["t" * 65]), 422, "$.tags[0]"),
    BadBody("a tag with a NUL", field(tags=["a\x00"]), 422, "$.tags[0]"),
    BadBody("a tag null", field(tags=[None]), 422, "$.tags[0]"),
    BadBody("callback_url a number", field(callback_url=1), 422, "$.callback_url"),
    BadBody("callback_url empty", field(callback_url=""), 422, "$.callback_url"),
    BadBody("callback_url of another scheme", field(callback_url="ftp://example.org/"), 422, "$.callback_url"),
    BadBody("callback_url with a blank", field(callback_url="http://example.org/a b"), 422, "$.callback_url"),
    BadBody("callback_url with a newline", field(callback_url="http://example.org/\n"), 422, "$.callback_url"),
    BadBody("callback_url over-long", field(callback_url="http://8.8.8.8/" + "a" * 2_048), 422, "$.callback_url"),
    BadBody("nested 65 deep in arrays", nested(65), 422, "$.payload"),
    BadBody("nested 65 deep in objects", nested(64, b'{"a":', b"}").replace(b'"a":}', b'"a":[]}'), 422, "$.payload"),
    BadBody("nested 500 deep", nested(500), 422, "$.payload"),
    BadBody("nested beyond the stack", nested(100_000), 422, "$"),
    BadBody("a number beyond a float", b'{"type":"echo","payload":[1,1e999]}', 422, "$.payload[1]"),
    BadBody("an integer of 5000 digits", b'{"type":"echo","payload":%s}' % (b"9" * 5000), 422, "$.payload"),
    # Too large.
    BadBody("payload over 1 MiB", field(payload="x" * 1_048_576), 413),
    BadBody("body over the limit", field(payload="x" * 1_200_000), 413),
)

BAD_BATCHES: Final = (
    BadBody("empty", b"", 400),
    BadBody("cut off", b'{"jobs":[{"type":"echo"}', 400),
    BadBody("bad UTF-8 in the last payload", b'{"jobs":[{"type":1},{"type":"echo","payload":"\xff"}]}', 400),
    BadBody("an array", b"[]", 422, "$"),
    BadBody("no jobs", b"{}", 422, "$"),
    BadBody("an unknown field", b'{"jobs":[{"type":"echo"}],"atomic":true}', 422, "$"),
    BadBody("jobs null", b'{"jobs":null}', 422, "$.jobs"),
    BadBody("jobs empty", b'{"jobs":[]}', 422, "$.jobs"),
    BadBody("jobs too many", b'{"jobs":[%s]}' % b",".join([b'{"type":"echo"}'] * 1001), 422, "$.jobs"),
    BadBody("a job that is none", b'{"jobs":[{"type":"echo"},7]}', 422, "$.jobs[1]"),
    BadBody("a job without a type", b'{"jobs":[{"type":"echo"},{}]}', 422, "$.jobs[1]"),
    BadBody("a job with a bad field", b'{"jobs":[{"type":"echo","delay":-1}]}', 422, "$.jobs[0].delay"),
    BadBody("a job with a bad tag", b'{"jobs":[{"type":"echo","tags":[""]}]}', 422, "$.jobs[0].tags[0]"),
    BadBody(
        "a job with a naive time",
        b'{"jobs":[{"type":"echo"},{"type":"echo","run_at":"2030-01-01T00:00:00"}]}',
        422,
        "$.jobs[1].run_at",
    ),
    BadBody(
        "a job with delay and run_at",
        b'{"jobs":[{"type":"echo","delay":1,"run_at":"2030-01-01T00:00:00Z"}]}',
        422,
        "$.jobs[0].delay",
    ),
    BadBody("a job nested too deep", b'{"jobs":[%s]}' % nested(65), 422, "$.jobs[0].payload"),
    BadBody("a payload too large", b'{"jobs":[%s]}' % field(payload="x" * 1_048_576), 413),
)

BAD_REPLAYS: Final = (
    BadBody("empty", b"", 400),
    BadBody("ids empty", b'{"ids":[]}', 422, "$.ids"),
    BadBody("an id that is none", b'{"ids":["x"]}', 422, "$.ids[0]"),
    BadBody("limit zero", b'{"all":true,"limit":0}', 422, "$.limit"),
    BadBody("limit over 10000", b'{"all":true,"limit":10001}', 422, "$.limit"),
    BadBody("all a string", b'{"all":"yes"}', 422, "$.all"),
    BadBody("an unknown field", b'{"all":true,"status":"failed"}', 422, "$"),
    BadBody("a bad name", b'{"type":"a b"}', 422, "$.type"),
)

_OK: Final = b'{"type":"echo"}'

BAD_REQUESTS: Final = (
    *(
        BadRequest(
            name=f"content type {value}",
            method="POST",
            target="/jobs",
            headers=(("content-type", value),),
            data=_OK,
            status=415,
        )
        for value in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=latin-1",
            "application/jsonp",
            "json",
        )
    ),
    BadRequest(
        name="a compressed body",
        method="POST",
        target="/jobs",
        headers=(JSON, ("content-encoding", "gzip")),
        data=_OK,
        status=415,
    ),
    # Headers of a submit.
    *(
        BadRequest(
            name=f"idempotency key {name}",
            method="POST",
            target="/jobs",
            headers=(JSON, *(("idempotency-key", value) for value in values)),
            data=_OK,
            status=422,
            path="$.headers.idempotency-key",
        )
        for name, values in {
            "empty": ("",),
            "quoted and empty": ('""',),
            "with an open quote": ('"abc',),
            "with a bad escape": (r'"a\b"',),
            "with a tab": ("a\tb",),
            "over-long": ("k" * 256,),
            "twice": ("a", "a"),
        }.items()
    ),
    BadRequest(
        name="idempotency key differs from the body",
        method="POST",
        target="/jobs",
        headers=(JSON, ("idempotency-key", "a")),
        data=b'{"type":"echo","idempotency_key":"b"}',
        status=422,
        path="$.idempotency_key",
    ),
    BadRequest(
        name="idempotency key for a batch",
        method="POST",
        target="/jobs/batch",
        headers=(JSON, ("idempotency-key", "a")),
        data=b'{"jobs":[{"type":"echo"}]}',
        status=422,
        path="$.headers.idempotency-key",
    ),
    # Query strings.
    *(
        BadRequest(name=f"GET {target}", target=target, status=422, path=path)
        for target, path in (
            ("/jobs?unknown=1", "$.query"),
            ("/jobs?Limit=1", "$.query"),
            ("/jobs?%ff=1", "$.query"),
            ("/jobs?limit=0", "$.query.limit"),
            ("/jobs?limit=101", "$.query.limit"),
            ("/jobs?limit=ten", "$.query.limit"),
            ("/jobs?limit=", "$.query.limit"),
            ("/jobs?limit", "$.query.limit"),
            ("/jobs?limit=1.0", "$.query.limit"),
            ("/jobs?limit=%D9%A1", "$.query.limit"),
            ("/jobs?limit=1&limit=1", "$.query.limit"),
            ("/jobs?limit=99999999999999999999", "$.query.limit"),
            ("/jobs?offset=-1", "$.query.offset"),
            ("/jobs?offset=1&cursor=abc", "$.query.offset"),
            ("/jobs?offset=9999999999", "$.query.offset"),
            ("/jobs?status=done", "$.query.status[0]"),
            ("/jobs?status=queued&status=", "$.query.status[1]"),
            ("/jobs?status=queued,running", "$.query.status[0]"),
            ("/jobs?type=a%20b", "$.query.type"),
            ("/jobs?type=", "$.query.type"),
            ("/jobs?queue=%00", "$.query.queue"),
            ("/jobs?tag=%ff", "$.query.tag"),
            ("/jobs?tag=%zz", "$.query.tag"),
            ("/jobs?tag=%", "$.query.tag"),
            ("/jobs?tag=a%00", "$.query.tag"),
            ("/jobs?tag=%ed%a0%80", "$.query.tag"),
            ("/jobs?tag=" + "t" * 65, "$.query.tag"),
            ("/jobs?created_after=2026-01-01T00:00:00", "$.query.created_after"),
            ("/jobs?created_after=yesterday", "$.query.created_after"),
            ("/jobs?created_after=0001-01-01T00:00:00%2B23:59", "$.query.created_after"),
            ("/jobs?created_before=9999-12-31T23:59:59-23:59", "$.query.created_before"),
            ("/jobs?cursor=", "$.query.cursor"),
            ("/jobs?cursor=" + "c" * 513, "$.query.cursor"),
            (f"/jobs/{UNKNOWN_ID}?wait=61", "$.query.wait"),
            (f"/jobs/{UNKNOWN_ID}?wait=-1", "$.query.wait"),
            (f"/jobs/{UNKNOWN_ID}?wait=nan", "$.query.wait"),
            (f"/jobs/{UNKNOWN_ID}?wait=1e1", "$.query.wait"),
            ("/dlq?status=failed", "$.query"),
            ("/dlq?limit=x", "$.query.limit"),
            ("/jobs?q=", "$.query.q"),
            ("/jobs?q=" + "q" * 201, "$.query.q"),
            ("/jobs?q=%00", "$.query.q"),
            ("/jobs?q=a&offset=1", "$.query.offset"),
            ("/dlq?error=a&offset=1", "$.query.offset"),
            ("/dlq?error=", "$.query.error"),
            ("/jobs?fingerprint=x", "$.query.fingerprint"),
            ("/jobs?fingerprint=ABCDEF0123456789", "$.query.fingerprint"),
            ("/dlq?fingerprint=0123456789abcdef%0A", "$.query.fingerprint"),
            ("/dlq/groups?limit=0", "$.query.limit"),
            ("/dlq/groups?fingerprint=0123456789abcdef", "$.query"),
            ("/queues?x=1", "$.query"),
            ("/workers?x=1", "$.query"),
            (f"/jobs/{UNKNOWN_ID}/why?x=1", "$.query"),
            ("/types?x=1", "$.query"),
            ("/admin/stats?x=1", "$.query"),
            ("/admin/activity?minutes=0", "$.query.minutes"),
            ("/admin/activity?minutes=61", "$.query.minutes"),
            ("/admin/activity?minutes=x", "$.query.minutes"),
        )
    ),
    *(
        BadRequest(name=f"DELETE {target}", method="DELETE", target=target, status=422, path=path)
        for target, path in (
            ("/dlq", "$.query"),
            ("/dlq?all=false", "$.query"),
            ("/dlq?all=1", "$.query.all"),
            ("/dlq?all=true&dry_run=maybe", "$.query.dry_run"),
            ("/dlq?tag=x", "$.query"),
            ("/dlq?type=a/b", "$.query.type"),
            ("/dlq?fingerprint=", "$.query.fingerprint"),
        )
    ),
    # Bodies where there is none to send.
    BadRequest(
        name="a body for cancel",
        method="POST",
        target=f"/jobs/{UNKNOWN_ID}/cancel",
        headers=(JSON,),
        data=b'{"reason":"x"}',
        status=422,
        path="$",
    ),
    BadRequest(
        name="a filter in the body of a delete",
        method="DELETE",
        target="/dlq?all=true",
        headers=(JSON,),
        data=b'{"type":"echo"}',
        status=422,
        path="$",
    ),
    BadRequest(
        name="bytes that are not JSON for pause",
        method="POST",
        target="/queues/a/pause",
        headers=(JSON,),
        data=b"x",
        status=400,
    ),
    BadRequest(
        name="form data for pause",
        method="POST",
        target="/queues/a/pause",
        headers=(("content-type", "application/x-www-form-urlencoded"),),
        data=b"a=1",
        status=415,
    ),
    *(
        BadRequest(
            name=f"a replay of {name}",
            method="POST",
            target="/dlq/replay",
            headers=(JSON,),
            data=data,
            status=422,
            path="$",
        )
        for name, data in (("nothing", b"{}"), ("not all", b'{"all":false}'), ("a limit", b'{"limit":5}'))
    ),
    *(
        BadRequest(
            name=f"an action {name}",
            method="POST",
            target="/jobs/actions",
            headers=(JSON,),
            data=data,
            status=422,
            path=path,
        )
        for name, data, path in (
            ("that is none", b'{"action":"pause","ids":["%s"]}' % UNKNOWN_ID.encode(), "$.action"),
            ("on nothing", b'{"action":"cancel"}', "$"),
            ("on an empty filter", b'{"action":"cancel","filter":{}}', "$.filter"),
            ("on a filter of nulls", b'{"action":"cancel","filter":{"type":null,"status":[]}}', "$.filter"),
            ("on an unknown filter", b'{"action":"cancel","filter":{"all":true}}', "$.filter"),
            ("on a bad filter", b'{"action":"cancel","filter":{"type":"a/b"}}', "$.filter.type"),
            (
                "on a time without a zone",
                b'{"action":"cancel","filter":{"created_after":"2026-01-01T00:00:00"}}',
                "$.filter.created_after",
            ),
            (
                "on no time",
                b'{"action":"cancel","filter":{"created_after":"0001-01-01T00:00:00+23:59"}}',
                "$.filter.created_after",
            ),
            ("on no status of its own", b'{"action":"cancel","filter":{"status":["failed"]}}', "$.filter.status"),
            (
                "on ids and a filter",
                b'{"action":"retry","ids":["%s"],"filter":{"type":"a"}}' % UNKNOWN_ID.encode(),
                "$",
            ),
            ("on ids from a place", b'{"action":"retry","ids":["%s"],"cursor":"x"}' % UNKNOWN_ID.encode(), "$.cursor"),
            ("on no ids", b'{"action":"retry","ids":[]}', "$.ids"),
            ("on too many", b'{"action":"retry","filter":{"type":"a"},"limit":10001}', "$.limit"),
        )
    ),
    # Paths.
    BadRequest(
        name="a queue name that is none", method="POST", target="/queues/a%20b/pause", status=422, path="$.path.name"
    ),
    BadRequest(
        name="a queue name with a NUL", method="POST", target="/queues/a%00/resume", status=422, path="$.path.name"
    ),
    BadRequest(
        name="a queue name with a newline", method="POST", target="/queues/a%0A/resume", status=422, path="$.path.name"
    ),
    *(
        BadRequest(name=f"{method} {target}", method=method, target=target, status=404)
        for method, target in (
            ("GET", "/nothing"),
            ("GET", "/jobs/17"),
            ("GET", "/jobs/%00"),
            ("GET", "/jobs/%ff"),
            ("GET", f"/jobs/{{{UNKNOWN_ID}}}"),
            ("GET", f"/jobs/urn:uuid:{UNKNOWN_ID}"),
            ("GET", "/jobs/" + UNKNOWN_ID.replace("-", "")),
            ("GET", "/jobs/x/attempts"),
            ("GET", "/jobs/x/why"),
            ("GET", f"/jobs/{UNKNOWN_ID}/why/x"),
            ("POST", "/jobs/x/cancel"),
            ("POST", "/jobs/x/retry"),
            ("POST", "/dlq/x/replay"),
            ("DELETE", "/dlq/x"),
        )
    ),
    *(
        BadRequest(name=f"{method} {target}", method=method, target=target, status=405)
        for method, target in (
            ("PUT", "/jobs"),
            ("DELETE", "/jobs"),
            ("PATCH", f"/jobs/{UNKNOWN_ID}"),
            ("GET", "/jobs/batch"),
            ("GET", f"/jobs/{UNKNOWN_ID}/cancel"),
            ("POST", "/queues"),
            ("POST", "/health"),
            ("TRACE", "/jobs"),
        )
    ),
    # Pages of other sites.
    BadRequest(name="a foreign host", target="/jobs", headers=(("host", "evil.example"),), status=403),
    BadRequest(
        name="a host that looks like ours", target="/jobs", headers=(("host", "localhost.evil.example:80"),), status=403
    ),
    BadRequest(name="a foreign host at no path", target="/nothing", headers=(("host", "evil.example"),), status=403),
    BadRequest(
        name="a foreign origin",
        method="POST",
        target="/jobs",
        headers=(JSON, ("origin", "http://evil.example")),
        data=_OK,
        status=403,
    ),
    BadRequest(
        name="the origin null", method="POST", target="/jobs", headers=(JSON, ("origin", "null")), data=_OK, status=403
    ),
    BadRequest(
        name="another port of ours",
        method="POST",
        target="/jobs",
        headers=(JSON, ("origin", "http://127.0.0.1:1")),
        data=_OK,
        status=403,
    ),
    BadRequest(
        name="a cross-site delete",
        method="DELETE",
        target="/dlq?all=true",
        headers=(("sec-fetch-site", "cross-site"),),
        status=403,
    ),
)


def params(cases: tuple[BadBody, ...] | tuple[BadRequest, ...]) -> list[Any]:
    """The rows as pytest parameters, named by what is wrong with them."""
    return [pytest.param(case, id=case.name.replace("/", "|").replace("%", "_")[:60]) for case in cases]
