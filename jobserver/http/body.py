"""Request bodies: read with a limit while reading, decoded once, refused with the reason and its path.

400 is for bytes that are not JSON, 422 for JSON that is not what it should be. msgspec keeps a payload as raw
bytes and looks at it less closely than at the rest, so every payload is decoded here once as well.
"""

from __future__ import annotations

import asyncio
import re
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

import msgspec
from litestar.types import HTTPScope, Receive

from jobserver.errors import Invalid
from jobserver.http.problems import NotJson, RequestRefused, TooLarge
from jobserver.job.wire import MAX_BATCH, MAX_DEPTH, BatchBody, SubmitBody, normalized

ENVELOPE_BYTES: Final = 65_536
BATCH_BYTES: Final = 32 * 1_048_576
BODY_SECONDS: Final = 60.0
# Decoding holds the event loop: a batch gives it back after about this many bytes, a few milliseconds.
SLICE_BYTES: Final = 262_144

B = TypeVar("B", bound=msgspec.Struct)
T = TypeVar("T")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No fields at all."""


class _Skeleton(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch whose bodies are not looked at yet."""

    jobs: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


# What a body is waited for within: its sender may lose the permission to send it meanwhile.
Admitted = Callable[[Awaitable[bytes], HTTPScope], Awaitable[bytes]]


async def read(scope: HTTPScope, receive: Receive, limit: int, admitted: Admitted | None = None) -> bytes:
    """The body, at most `limit` bytes. Raises RequestRefused, ClientGone, and what `admitted` raises."""
    _check_headers(scope, limit)
    reading = _read_chunks(receive, limit)
    try:
        waits_for = reading.send(None)
    except StopIteration as done:
        # It was there already, as most are: a time limit would cost more than the reading.
        body: bytes = done.value
        return body
    try:
        async with asyncio.timeout(BODY_SECONDS):
            rest = _resumed(reading, waits_for)
            return await (rest if admitted is None else admitted(rest, scope))
    except TimeoutError:
        raise RequestRefused(
            HTTPStatus.REQUEST_TIMEOUT, f"The body did not arrive within {BODY_SECONDS:.0f} seconds."
        ) from None


@types.coroutine
def _resumed(begun: Coroutine[Any, None, T], waits_for: Any) -> Generator[Any, None, T]:
    """Awaits the rest of a coroutine whose first step was taken by hand, and which waits."""
    while True:
        try:
            try:
                yield waits_for
            except BaseException as error:
                waits_for = begun.throw(error)
            else:
                waits_for = begun.send(None)
        except StopIteration as done:
            result: T = done.value
            return result


async def _read_chunks(receive: Receive, limit: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = message["body"]
        if len(body) > limit:
            raise _too_large(limit)
        return body
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        size += len(message["body"])
        if size > limit:
            raise _too_large(limit)
        chunks.append(message["body"])
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def _check_headers(scope: HTTPScope, limit: int) -> None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            if value.isdigit() and int(value) > limit:
                raise _too_large(limit)
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestRefused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the body as it is, without a Content-Encoding."
            )


def check_content_type(scope: HTTPScope) -> None:
    """Raises RequestRefused unless every Content-Type is JSON in UTF-8. None at all is accepted."""
    for name, value in scope["headers"]:
        if name == b"content-type" and value != b"application/json" and not _is_json(value):
            raise RequestRefused(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "The body must be JSON in UTF-8: send the header `Content-Type: application/json`.",
            )


def _is_json(value: bytes) -> bool:
    media_type, *parameters = value.decode("latin-1").lower().split(";")
    if media_type.strip() not in ("application/json", ""):
        return False
    for parameter in parameters:
        name, _, setting = parameter.partition("=")
        if name.strip() == "charset" and setting.strip().strip('"') not in ("utf-8", "utf8"):
            return False
    return True


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes.")


# Decoding.

Decode = Callable[[bytes], Awaitable[B]]


def decoder(kind: type[B], max_payload_bytes: int) -> Decode[Any]:
    """What turns the bytes of a body into a `kind`. Raises NotJson, TooLarge and Invalid."""
    if kind is SubmitBody:

        async def submit(data: bytes) -> SubmitBody:
            return decode_submit(data, "$", max_payload_bytes)

        return submit
    if kind is BatchBody:

        async def batch(data: bytes) -> BatchBody:
            return await decode_batch(data, max_payload_bytes)

        return batch
    typed = msgspec.json.Decoder(kind)

    async def plain(data: bytes) -> B:
        return decode(typed, data, "$")

    return plain


def limit_of(kind: type[msgspec.Struct], max_payload_bytes: int) -> int:
    """Bytes that a body of this kind may have."""
    return BATCH_BYTES if kind is BatchBody else max_payload_bytes + ENVELOPE_BYTES


def decode_submit(data: bytes | msgspec.Raw, at: str, max_payload_bytes: int) -> SubmitBody:
    """One job of a request, at the path `at`."""
    body = decode(_SUBMIT, data, at)
    check_payload(bytes(body.payload), f"{at}.payload", max_payload_bytes)
    return normalized(body, at)


async def decode_batch(data: bytes, max_payload_bytes: int) -> BatchBody:
    """The jobs of a batch, each with its own path; other requests get their turn in between."""
    if len(data) <= SLICE_BYTES and (batch := _batch_at_once(data, max_payload_bytes)) is not None:
        return batch
    check_json(data)
    skeleton = decode(_SKELETON, data, "$")
    bodies: list[SubmitBody] = []
    done = 0
    for index, raw in enumerate(skeleton.jobs):
        bodies.append(decode_submit(raw, f"$.jobs[{index}]", max_payload_bytes))
        done += memoryview(raw).nbytes
        if done > SLICE_BYTES:
            done = 0
            await asyncio.sleep(0)
    return BatchBody(jobs=bodies)


def _batch_at_once(data: bytes, max_payload_bytes: int) -> BatchBody | None:
    """The jobs of a batch, in half the time; None where something is wrong: job by job, it is found out what."""
    try:
        batch = _BATCH.decode(data)
        closer: list[int] = []
        for index, body in enumerate(batch.jobs):
            payload = bytes(body.payload)
            if len(payload) > max_payload_bytes:
                return None
            if _may_be_deep(payload):
                closer.append(index)
            if body.run_at is not None or body.expires_at is not None:
                batch.jobs[index] = normalized(body)
        # What is raw to the types, the payloads, is JSON too.
        whole = _ANY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Invalid):
        return None
    return batch if all(_is_shallow(whole["jobs"][index]["payload"]) for index in closer) else None


def decode(typed: msgspec.json.Decoder[B], data: bytes | msgspec.Raw, at: str) -> B:
    """`data` as the decoder's type. What is not JSON is told as that, whatever its types."""
    try:
        return typed.decode(data)
    except msgspec.ValidationError as error:
        # msgspec stops at the first wrong type, and has not seen what comes after it.
        check_json(data)
        raise _invalid(error, at) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(data, error) from None
    except RecursionError:
        raise _too_deep(at) from None


def check_json(data: bytes | msgspec.Raw) -> None:
    """Raises NotJson for bytes that are not one JSON document in UTF-8, Invalid where it is too deep to tell."""
    try:
        _RAW.decode(data)
        if not bytes(data).isascii():
            str(data, "utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(data, error) from None
    except RecursionError:
        raise _too_deep("$") from None


def check_payload(data: bytes, path: str, max_payload_bytes: int) -> None:
    """Raises for a payload that is too large, that is not JSON, or that is nested too deeply."""
    if len(data) > max_payload_bytes:
        raise TooLarge(f"{path} is larger than {max_payload_bytes} bytes.")
    try:
        payload = _ANY.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(error, path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(data, error) from None
    except RecursionError:
        raise _too_deep(path) from None
    if _may_be_deep(data) and not _is_shallow(payload):
        raise _too_deep(path)


def _may_be_deep(data: bytes) -> bool:
    """Whether to look closer. Brackets inside strings count here too."""
    return data.count(b"[") + data.count(b"{") > MAX_DEPTH


def _is_shallow(value: Any) -> bool:
    """Whether no array or object is at a level below MAX_DEPTH. Level by level, so that depth costs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) is dict:
                below.extend(child for child in item.values() if type(child) in (dict, list))
            elif type(item) is list:
                below.extend(child for child in item if type(child) in (dict, list))
        if not below:
            return True
        level = below
    return False


_SUBMIT: Final = msgspec.json.Decoder(SubmitBody)
_BATCH: Final = msgspec.json.Decoder(BatchBody)
_SKELETON: Final = msgspec.json.Decoder(_Skeleton)
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_ANY: Final = msgspec.json.Decoder()
_AT: Final = re.compile(r"(.*) - at `(?:key in )?\$?(.*)`", re.DOTALL)


def _invalid(error: msgspec.ValidationError, at: str) -> Invalid:
    message = str(error)
    if found := _AT.fullmatch(message):
        return Invalid(at + found[2], found[1])
    return Invalid(at, message)


def _not_json(data: bytes | msgspec.Raw, error: Exception) -> NotJson:
    if isinstance(error, UnicodeDecodeError):
        return NotJson("The body is not JSON: it is not UTF-8.")
    if not bytes(data).strip():
        return NotJson("The body is empty; a JSON document is expected.")
    return NotJson(f"The body is not JSON: {error}.")


def _too_deep(path: str) -> Invalid:
    return Invalid(path, f"Expected at most {MAX_DEPTH} levels of nesting")
