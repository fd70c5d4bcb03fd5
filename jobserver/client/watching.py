"""Watching jobs: server-sent events read as they come, and resumed where they broke off. No I/O.

The feed may leave an event out and says where it knows that (`Reset`); SQL is the truth. Per job, fences only grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from jobserver.client.errors import RequestRefused, ServerUnreachable
from jobserver.client.exchange import Lost, Request, Response
from jobserver.client.refusals import GATEWAYS, TURNED_AWAY, asked_seconds, problem_of
from jobserver.job.model import TERMINAL, Progress, Status

# The server sends a comment every 15 s: after three of them it is gone.
SILENCE_SECONDS: Final = 45.0
# A stream that was there is looked for this long; one that never was, as often as any other request is repeated.
PATIENCE_SECONDS: Final = 60.0
MAX_EVENT_BYTES: Final = 1_048_576


class JobEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A job became what it is: one transition. `event_id` resumes after it."""

    event: Literal["job"] = "job"
    id: UUID
    type: str
    queue: str
    status: Status
    attempt: int
    fence: int
    at: datetime
    event_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is completed, failed or canceled."""
        return self.status in TERMINAL


class ProgressEvent(msgspec.Struct, frozen=True, kw_only=True):
    """How far a running job is. At most one a second a job, and not sent again."""

    event: Literal["progress"] = "progress"
    id: UUID
    progress: Progress
    at: datetime
    event_id: str | None = None


class DeletedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A failed job was deleted, by command."""

    event: Literal["deleted"] = "deleted"
    id: UUID
    type: str
    queue: str
    fence: int
    at: datetime
    event_id: str | None = None


class ResetEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Events were left out here: what is known of the jobs may be old. Look at them again."""

    event: Literal["reset"] = "reset"
    reason: str | None = None
    event_id: str | None = None


Event = JobEvent | ProgressEvent | DeletedEvent | ResetEvent

_JOB: Final = msgspec.json.Decoder(JobEvent)
_DELETED: Final = msgspec.json.Decoder(DeletedEvent)
_RESET: Final = msgspec.json.Decoder(ResetEvent)
_PROGRESS: Final = msgspec.json.Decoder(ProgressEvent)


class Watching:
    """One reader's place in the feed: what to ask for next, and what came of it.

    `backoff` gives seconds by the number of failures; `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        shown_url: str,
        path: str,
        query: tuple[tuple[str, str], ...],
        *,
        last_event_id: str | None,
        repeats: int,
        backoff: Callable[[int], float],
        clock: Callable[[], float],
    ) -> None:
        self._over = False
        self._shown_url = shown_url
        self._path = path
        self._query = query
        self._repeats = repeats
        self._backoff = backoff
        self._clock = clock
        self._reader = Reader(last_event_id)
        self._of_one_job = path != "/events"
        self._fence = -1
        self._failures = 0
        # When it was last known to be there; None: never yet.
        self._heard: float | None = None
        self._retry_seconds = 0.0

    def is_over(self) -> bool:
        """Whether nothing more is to come."""
        return self._over

    def request(self) -> Request:
        """What opens the stream, from after the last event that came."""
        headers = [("accept", "text/event-stream"), ("accept-encoding", "identity"), ("cache-control", "no-store")]
        if self._reader.last_event_id:
            headers.append(("last-event-id", self._reader.last_event_id))
        return Request(
            method="GET", path=self._path, query=self._query, seconds=SILENCE_SECONDS, headers=tuple(headers)
        )

    def is_opened_by(self, status: int, content_type: str) -> bool:
        """Whether this answer is the stream; if not, `pause` is to hear of it."""
        if status == 204:
            self._over = True
        if status != 200:
            return False
        if content_type.partition(";")[0].strip().lower() != "text/event-stream":
            raise ServerUnreachable(f"What answers at {self._shown_url} is not this jobserver: it sends no events.")
        self._reader.begin()
        return True

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete with these bytes. Raises ServerUnreachable for what is no stream of ours."""
        self._failures = 0
        self._heard = self._clock()
        for message in self._reader.feed(data):
            event = self._read(message)
            if event is None:
                continue
            if isinstance(event, JobEvent) and self._of_one_job:
                # A stream begins with the present state, which a reader that comes back has seen.
                if event.fence <= self._fence:
                    self._over = event.ended
                    continue
                self._fence = event.fence
                self._over = event.ended
            if isinstance(event, DeletedEvent) and self._of_one_job:
                self._over = True
            yield event
            if self._over:
                return
        if self._reader.retry_seconds is not None:
            self._retry_seconds = min(self._reader.retry_seconds, PATIENCE_SECONDS)

    def _read(self, message: Message) -> Event | None:
        event: Event
        try:
            if message.event == "job":
                event = _JOB.decode(message.data)
            elif message.event == "progress":
                event = _PROGRESS.decode(message.data)
            elif message.event == "deleted":
                event = _DELETED.decode(message.data)
            elif message.event == "reset":
                event = _RESET.decode(message.data)
            else:
                return None  # of a later release
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ServerUnreachable(f"What answers at {self._shown_url} is not this jobserver: {error}.") from None
        return msgspec.structs.replace(event, event_id=message.id)

    def pause(self, outcome: Response | Lost) -> float:
        """Seconds to wait before the stream is opened again. Raises where that is no use, or was tried enough."""
        backoff = max(self._backoff(self._failures), self._retry_seconds)
        self._failures += 1
        if self._heard is None:
            given_up = self._failures > self._repeats
        else:
            given_up = self._clock() - self._heard > PATIENCE_SECONDS
        if isinstance(outcome, Lost):
            if given_up:
                raise ServerUnreachable(f"No answer from {self._shown_url}: {outcome.reason}.")
            return backoff
        if outcome.status in TURNED_AWAY or outcome.status in GATEWAYS:
            asked = asked_seconds(outcome)
            if not given_up and asked <= PATIENCE_SECONDS:
                return asked + backoff
        raise RequestRefused(outcome.status, problem_of(outcome))


class Message(msgspec.Struct, frozen=True):
    """One server-sent event. `id` is the last that was named, by this event or one before it."""

    event: str
    data: bytes
    id: str | None


class Reader:
    """Reads `text/event-stream` in pieces of any size; what it keeps is bounded.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.retry_seconds: float | None = None
        self.begin()

    def begin(self) -> None:
        """A new stream: what the last one left unfinished is gone."""
        self._line = bytearray()
        self._first = True
        self._after_return = False
        self._id = self.last_event_id
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """The events that are complete with these bytes. Raises ServerUnreachable for one without end."""
        for line in self._lines(data):
            if line:
                self._field(line)
                continue
            # Its id counts even where nothing else came with it.
            self.last_event_id = self._id
            event, lines = self._event, self._data
            self._event, self._data, self._size = b"", [], 0
            if lines:
                yield Message((event or b"message").decode("utf-8", "replace"), b"\n".join(lines), self._id)

    def _lines(self, data: bytes) -> Iterator[bytes]:
        start = 0
        if self._after_return and data:
            start = 1 if data[:1] == b"\n" else 0
            self._after_return = False
        for part in data[start:].splitlines(keepends=True):
            self._after_return = False
            self._line += part
            self._size += len(part)
            if self._size > MAX_EVENT_BYTES:
                raise ServerUnreachable("The server sends an event without end.")
            if part[-1:] not in (b"\n", b"\r"):
                return
            self._after_return = part[-1:] == b"\r"
            line = bytes(self._line).rstrip(b"\r\n")
            self._line.clear()
            if self._first:
                self._first = False
                line = line.removeprefix(b"\xef\xbb\xbf")
            yield line
        # What a comment or an unknown field took is free again with its line.

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 9:
            self.retry_seconds = int(value) / 1_000
        if not self._data:
            self._size = 0
