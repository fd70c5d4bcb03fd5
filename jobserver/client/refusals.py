"""What an answer that is no success says: its problem, and when to come back."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import msgspec

from jobserver.client.exchange import Response
from jobserver.job.wire import OVERLOADED, Problem

# Better repeated later: not done, unless it is done in several steps.
TURNED_AWAY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
GATEWAYS: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)
MAX_DETAIL: Final = 500

_PROBLEM: Final = msgspec.json.Decoder(Problem)


def asked_seconds(response: Response) -> float:
    """Retry-After in seconds; 0 where there is none. Its form as a date counts from the server's own Date."""
    value = response.retry_after
    if value is None:
        return 0.0
    if re.fullmatch(r"\d{1,9}", value, re.ASCII):
        return float(value)
    # Imported on use: few servers answer with a date, and clients start fast without.
    from email.utils import parsedate_to_datetime

    try:
        until = parsedate_to_datetime(value)
        now = datetime.now(UTC) if response.date is None else parsedate_to_datetime(response.date)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def none_is_done(response: Response) -> bool:
    """Whether what is done in several steps was turned away before the first."""
    return response.status == HTTPStatus.TOO_MANY_REQUESTS or problem_of(response).type == OVERLOADED


def problem_of(response: Response) -> Problem:
    """The problem of a refusal; one made up from the status where a proxy answered, or something else."""
    try:
        return _PROBLEM.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = response.body[: MAX_DETAIL * 4].decode("utf-8", "replace").strip()[:MAX_DETAIL]
    try:
        title = HTTPStatus(response.status).phrase
    except ValueError:
        title = "Error"
    said = f"{response.status} {title}"
    return Problem(title=title, status=response.status, detail=f"{said}: {text}" if text else said)
