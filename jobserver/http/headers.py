"""The request headers that mean something to a submit: Idempotency-Key, traceparent, tracestate."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from litestar.types import HTTPScope

from jobserver.errors import Invalid
from jobserver.job.wire import KEY_PATTERN

KEY_PATH: Final = "$.headers.idempotency-key"

_KEY: Final = re.compile(KEY_PATTERN)
# A string of RFC 8941: the form that the Idempotency-Key draft asks for. It defines no parameters: they are skipped.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"(?: *; *[a-z*][a-z0-9_.*-]*(?:=[!-:<-~]*)?)*')
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_MEMBER: Final = re.compile(
    r"[a-z0-9][a-z0-9_\-*/]{0,255}(@[a-z][a-z0-9_\-*/]{0,13})?=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MAX_STATE: Final = 512
_MAX_STATE_MEMBERS: Final = 32


class SubmitHeaders(msgspec.Struct, frozen=True):
    """What the headers of a submit say. `trace_context` is a traceparent, and a tracestate on a second line."""

    idempotency_key: str | None
    trace_context: str | None


def submit_headers(scope: HTTPScope) -> SubmitHeaders:
    """Raises Invalid for an idempotency key that is none; a trace context that is none is left out."""
    keys: list[bytes] = []
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            keys.append(value)
        elif name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if not keys and not parents:
        return _NONE
    return SubmitHeaders(_idempotency_key(keys), _trace_context(parents, states))


def trace_context_of(scope: HTTPScope) -> str | None:
    """The trace that a request belongs to, by its headers."""
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if not parents:
        return None
    return _trace_context(parents, [value for name, value in scope["headers"] if name == b"tracestate"])


_NONE: Final = SubmitHeaders(None, None)


def _idempotency_key(values: list[bytes]) -> str | None:
    if not values:
        return None
    if len(values) > 1:
        raise Invalid(KEY_PATH, "Expected the header once")
    key = values[0].decode("latin-1").strip()
    if key.startswith('"'):
        quoted = _QUOTED.fullmatch(key)
        if quoted is None:
            raise Invalid(KEY_PATH, 'Expected the quotes to be closed, and `\\` only before `\\` and `"`')
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if _KEY.fullmatch(key) is None:
        raise Invalid(KEY_PATH, "Expected 1 to 255 printable ASCII characters")
    return key


def _trace_context(parents: list[bytes], states: list[bytes]) -> str | None:
    """W3C Trace Context: an invalid traceparent is as good as none, and takes the tracestate with it."""
    if len(parents) != 1:
        return None
    found = _PARENT.fullmatch(parents[0].decode("latin-1").strip())
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return None
    # A later version is read as far as this one goes, and continued in this one.
    parent = f"00-{trace}-{span}-{flags}"
    state = _trace_state(states)
    return f"{parent}\n{state}" if state else parent


def _trace_state(values: list[bytes]) -> str:
    text = b",".join(values).decode("latin-1")
    members = [member.strip(" \t") for member in text.split(",") if member.strip(" \t")]
    if len(text) > _MAX_STATE or len(members) > _MAX_STATE_MEMBERS:
        return ""
    if not all(_STATE_MEMBER.fullmatch(member) for member in members):
        return ""
    return ",".join(members)
