"""From what a handler returned or raised to an Outcome. Pure; bounded, whatever the user's objects do."""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
from types import TracebackType
from typing import Final

from jobserver.errors import Cancel, Invalid, NotRetryable, Retry, Signal, Snooze
from jobserver.job.encoding import NotEncodableError, encode_json
from jobserver.job.model import Canceled, Outcome, Raised, Returned, Snoozed, bounded_error
from jobserver.settings import YEAR_SECONDS

_MAX_FRAMES: Final = 50
_OWN_FOLDER: Final = os.path.dirname(os.path.abspath(__file__))
_NULL: Final = Returned(b"null")


def returned(value: object, max_result_bytes: int) -> Returned | Raised:
    """The outcome of a handler that returned `value`."""
    if value is None:
        return _NULL
    if inspect.iscoroutine(value):
        value.close()
        return _invalid_result("a plain def returned a coroutine: declare the handler with async def")
    try:
        result = encode_json(value)
    except NotEncodableError as error:
        return _invalid_result(f"the result is not JSON: {error}")
    if len(result) > max_result_bytes:
        return _invalid_result(f"the result has {len(result)} bytes of JSON, {max_result_bytes} are allowed")
    return Returned(result)


def raised(error: BaseException) -> Outcome:
    """The outcome of a handler that raised `error`. Raises nothing, whatever the exception's own code does."""
    try:
        return _outcome_of(error)
    except BaseException as other:  # an attempt without an outcome would never end
        return Raised(bounded_error("UnreadableError", f"the error cannot be shown: {type(other).__name__}"))


def _outcome_of(error: BaseException) -> Outcome:
    if isinstance(error, Snooze) and (seconds := _seconds(error, "seconds")) is not None:
        return Snoozed(seconds)
    if isinstance(error, Cancel):
        return Canceled(_message(error) or "canceled by its handler")
    failure = bounded_error(
        _type_name(type(error)),
        _message(error),
        traceback=_traceback(error),
        retryable=not isinstance(error, NotRetryable),
    )
    if isinstance(error, Retry):
        return Raised(failure, _seconds(error, "after"), _seconds(error, "at_least") or 0.0)
    return Raised(failure)


def _seconds(signal: Signal, name: str) -> float | None:
    """What a signal says, if that is of use: a subclass may lack it, or have put anything in its place."""
    try:
        seconds = float(getattr(signal, name))
    except Exception:
        return None
    return seconds if 0 <= seconds <= YEAR_SECONDS else None


def unreadable_payload(error: Invalid) -> Raised:
    """The outcome of a job whose payload does not fit its handler."""
    return Raised(bounded_error("InvalidPayload", str(error), retryable=False))


def _invalid_result(message: str) -> Raised:
    return Raised(bounded_error("InvalidResult", message, retryable=False))


def _type_name(kind: type[BaseException]) -> str:
    if kind.__module__ in ("builtins", Signal.__module__) or kind is asyncio.CancelledError:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:
        return f"<its message cannot be shown: {type(other).__name__}>"


def _traceback(error: BaseException) -> str | None:
    """The frames of the handler, not ours around it."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        frames = frames.tb_next
    try:
        lines = traceback.TracebackException(
            type(error), error, frames, limit=-_MAX_FRAMES, compact=True, max_group_width=5, max_group_depth=3
        ).format()
        return "".join(lines)
    except Exception:
        return None  # the exception's own attributes or source files fail: the message says enough
