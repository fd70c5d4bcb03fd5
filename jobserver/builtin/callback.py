"""callback: tells a job's `callback_url` that the job has ended. A CloudEvents 1.0 event, signed by Standard Webhooks.

The event was stored with the transition that it tells of, so that every attempt sends the same bytes under the same
`webhook-id`: job id and fence. Never submitted, only made.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec

from jobserver.builtin.http_request import retry_after, with_trace
from jobserver.egress import Answer, Exchange, TargetRefused, exchange, target_of
from jobserver.errors import DatabaseUnavailable, NotRetryable, Retry, Snooze
from jobserver.job.attempt import Attempt
from jobserver.job.backoff import backoff_seconds
from jobserver.job.handlers import Handlers
from jobserver.job.model import CALLBACK, CALLBACK_QUEUE
from jobserver.telemetry import Telemetry

# A receiver answers within this time, and does its work afterwards.
ANSWER_SECONDS: Final = 15.0
# Only its status counts; so much of the rest is read, to let it end in good order.
MAX_ANSWER_BYTES: Final = 16_384
# The longest wait between two attempts, unless the receiver asks for more.
MAX_BACKOFF_SECONDS: Final = 3_600.0
# So long a revoked secret may still sign.
SECRETS_SECONDS: Final = 3.0
_AWAY_SECONDS: Final = 5.0
_GONE: Final = 410


class Told(msgspec.Struct, frozen=True):
    """The payload of a callback: where to, and what."""

    url: str
    event: msgspec.Raw


class Delivered(msgspec.Struct, frozen=True):
    """What a callback comes to: the status that the receiver answered with."""

    status: int


class _Named(msgspec.Struct, frozen=True):
    id: str


_named: Final = msgspec.json.Decoder(_Named).decode


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of a message by one secret (`whsec_` and base64), in the words of Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


class Callbacks:
    """Delivers callbacks. `secrets` gives those that sign now, newest first."""

    def __init__(
        self,
        secrets: Callable[[], Awaitable[Sequence[str]]],
        telemetry: Telemetry,
        *,
        allow_private_targets: bool,
        backoff_base: float,
    ) -> None:
        self._load = secrets
        self._telemetry = telemetry
        self._allow_private = allow_private_targets
        self._backoff_base = backoff_base
        self._loading = asyncio.Lock()
        self._secrets: Sequence[str] = ()
        self._loaded_at = float("-inf")

    def handlers(self) -> Handlers:
        """The type, to be run and not to be submitted."""
        found = Handlers()

        @found.handler(CALLBACK, queue=CALLBACK_QUEUE)
        async def callback(attempt: Attempt, told: Told) -> Delivered:
            return await self._deliver(attempt, told)

        return found

    async def _deliver(self, attempt: Attempt, told: Told) -> Delivered:
        body = bytes(told.event)
        message_id = _named(body).id
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(
                signature(secret, message_id, timestamp, body) for secret in await self._signing(attempt)
            ),
        }
        answer = await self._answer(attempt, told.url, with_trace(headers, attempt.trace_context), body)
        if 200 <= answer.status < 300:
            self._telemetry.callback_delivered()
            return Delivered(answer.status)
        self._telemetry.callback_failed("status")
        if 300 <= answer.status < 400:
            raise NotRetryable(f"answered {answer.status}; redirects are not followed")
        if answer.status == _GONE:
            raise NotRetryable(f"answered {answer.status}: it wants no more of them")
        # No sooner than the backoff, whatever it asks for: the retries are to last for hours.
        after = max(retry_after(answer, datetime.now(UTC)), self._backoff(attempt))
        raise Retry(f"answered {answer.status}", after=after)

    async def _answer(self, attempt: Attempt, url: str, headers: dict[str, str], body: bytes) -> Answer:
        try:
            target_of(url)
            return await exchange(
                Exchange(
                    method="POST",
                    url=url,
                    headers=headers,
                    content=body,
                    timeout_seconds=ANSWER_SECONDS,
                    max_bytes=MAX_ANSWER_BYTES,
                    allow_private=self._allow_private,
                    cut=True,
                )
            )
        except (TargetRefused, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            self._telemetry.callback_failed("refused")
            raise NotRetryable(str(error)) from None
        except TimeoutError:
            reason = f"no answer within {ANSWER_SECONDS:g} s"
        except httpx.TransportError as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._telemetry.callback_failed("network")
        raise Retry(reason, after=self._backoff(attempt)) from None

    async def _signing(self, attempt: Attempt) -> Sequence[str]:
        async with self._loading:
            if time.monotonic() - self._loaded_at > SECRETS_SECONDS:
                try:
                    self._secrets = await self._load()
                except DatabaseUnavailable:
                    # Nobody's fault here, and no reason to use up a retry.
                    raise Snooze(_AWAY_SECONDS) from None
                self._loaded_at = time.monotonic()
        if not self._secrets:
            self._telemetry.callback_failed("unsigned")
            raise Retry("no secret signs: make one by `jobserver secrets create`", after=self._backoff(attempt))
        return self._secrets

    def _backoff(self, attempt: Attempt) -> float:
        jitter = random.random()  # noqa: S311 - spreads retries
        return backoff_seconds(attempt.number, base=self._backoff_base, cap=MAX_BACKOFF_SECONDS, jitter=jitter)
