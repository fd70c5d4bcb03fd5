"""uvicorn's HTTP/1.1 protocol, with one write for what is written in one turn of the loop, quick refusals, and
bounds for heads.

uvicorn writes an answer's head and its body apart, which is two calls of the system; they cost as much as all of
the answer's making. And a server that has too much to do says so before a task is made of a submit, or refusing would
be what keeps it busy. Nobody has shown a key before the end of a head, and uvicorn waits for it in any size and time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, Protocol

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from jobserver.errors import Overloaded
from jobserver.http.problems import problem, reply_to
from jobserver.http.reply import Reply

# More than this goes out at once, so that the transport can say that it is full.
_MOST_BYTES: Final = 65_536
# Of a head that is not complete, and of a message's trailers, beside the read that they began in.
MAX_HEAD_BYTES: Final = 65_536
# From the connection, or from the beginning of a later head, to its end.
HEAD_SECONDS: Final = 30.0
# What arrives at a socket that is closed resets the connection, and takes the refusal away from who still sends.
_LINGER_SECONDS: Final = 1.0
# What stores jobs: the gate is before it.
SUBMITS: Final = frozenset({"/jobs", "/jobs/batch"})


# Of every request: `super()` would cost as much again as what is added to them.
_data_received: Final = HttpToolsProtocol.data_received
_on_body: Final = HttpToolsProtocol.on_body


class Gate(Protocol):
    """What stands before submits. `arrive` says why one is not taken now, None for one that is."""

    def arrive(self) -> Overloaded | None: ...
    def refused(self, error: Overloaded) -> None: ...


class Callers(Protocol):
    """Whether a request with these headers may submit, as far as that is known without asking anybody."""

    def may_submit(self, headers: Iterable[tuple[bytes, bytes]]) -> bool: ...


class OneWriteProtocol(HttpToolsProtocol):
    """What `uvicorn.Config(http=...)` takes."""

    gate: Gate | None = None
    callers: Callers
    # The message whose unfinished head or body is counted, in bytes since its beginning or its last part of a body.
    _counted: object = None
    _bytes = 0
    _body_came = False
    _head_since = 0.0
    _head_timer: asyncio.TimerHandle | None = None

    @classmethod
    def with_gate(cls, gate: Gate, callers: Callers) -> type[OneWriteProtocol]:
        """The same, for a server that refuses submits by this, of callers that it would let in."""
        return type(cls.__name__, (cls,), {"gate": gate, "callers": callers})

    def data_received(self, data: bytes) -> None:
        _data_received(self, data)
        cycle = self.cycle
        # A request that came in one piece is none of these.
        if cycle is None or cycle.scope is not self.scope or cycle.more_body or cycle.response_complete:
            self._look_at_rest(cycle, len(data))

    def _look_at_rest(self, cycle: RequestResponseCycle | None, size: int) -> None:
        """After a part of a head or of a body, or what came after an answer. `cycle`: the last whole head's."""
        if self.transport.is_closing() or isinstance(self.parser, _Deaf):
            return
        if self._counted is not self.scope:
            # Part of what was read may be of the message before.
            self._counted, self._bytes, self._head_since = self.scope, 0, self.loop.time()
        else:
            self._bytes = 0 if self._body_came else self._bytes + size
        self._body_came = False
        if self._bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._is_in_head():
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._look_at_head)
        elif cycle is not None and cycle.response_complete and self.timeout_keep_alive_task is None:
            # Of the body of a request that has its answer: uvicorn ends the wait for the next one at any data.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_body(self, body: bytes) -> None:
        self._body_came = True
        _on_body(self, body)

    def _is_in_head(self) -> bool:
        """Whether the end of a head is still to come, or of the first one all."""
        return self.cycle is None or self.cycle.scope is not self.scope

    def _look_at_head(self) -> None:
        """One timer for whatever head is under way when it is over: one for each would cost every request."""
        self._head_timer = None
        if not self._is_in_head() or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.cycle is not None and not self.cycle.response_complete:
            # Who waits for an answer has time; we may not even read meanwhile.
            self._head_since = now
        left = self._head_since + HEAD_SECONDS - now
        if left > 0:
            self._head_timer = self.loop.call_later(left, self._look_at_head)
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        """A problem where it cannot be taken for another request's answer; and the end of the connection."""
        cycle = self.cycle
        self.parser = _Deaf()  # type: ignore[assignment]
        if self._is_in_head():
            first = cycle is None or cycle.response_complete
        else:
            first = not cycle.response_started and not self.pipeline
        if not first:
            self.transport.close()
            return
        if cycle is not None:
            # The application hears that nobody is there, and writes nothing more.
            cycle.disconnected = True
            cycle.message_event.set()
        reply = problem(431, "The head of the request is too large.")
        self.transport.write(_written(b"431 Request Header Fields Too Large", [*reply.headers, _CLOSE], reply.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        scope, gate = cycle.scope, self.gate
        if (
            gate is not None
            and scope["path"] in SUBMITS
            and scope["method"] == "POST"
            # The application says why to all others; they must not take a place of those whom it lets in.
            and self.callers.may_submit(scope["headers"])
            and (error := gate.arrive()) is not None
            # Who does not read its answers waits in the application, where the answers to pages get their headers.
            and not self.flow.write_paused
            and not any(name == b"origin" for name, _ in scope["headers"])
        ):
            gate.refused(error)
            self._refuse(cycle, error)
        else:
            super()._start_asgi_task(cycle, app)

    def _refuse(self, cycle: RequestResponseCycle, error: Overloaded) -> None:
        """The whole answer; what comes of the request's body is left out by uvicorn as after any answer."""
        reply = _refusals.get(type(error)) or _refusals.setdefault(type(error), reply_to(error, method="POST", path=""))
        # Who waits for 100 may send its body or not: nobody could tell what comes next.
        last = not cycle.keep_alive or cycle.waiting_for_100_continue
        cycle.response_started = cycle.response_complete = True
        headers = [*self.server_state.default_headers, *reply.headers]
        if _CLOSE in headers:
            last = True
        elif last:
            headers.append(_CLOSE)
        self.transport.write(_written(b"503 Service Unavailable", headers, reply.body))
        if last:
            self.transport.close()
        if self.pipeline:
            # Not from within: there may be thousands of them.
            self.loop.call_soon(self.on_response_complete)
        else:
            self.on_response_complete()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWriteTransport(transport, self.loop))  # type: ignore[arg-type]
        self._head_since = self.loop.time()
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._look_at_head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_timer is not None:
            # It would keep all of this for its time.
            self._head_timer.cancel()
            self._head_timer = None
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all: a problem like any other, and the end of the connection."""
        reply = problem(400, "This is not HTTP, or not such as this server reads.")
        headers = [*reply.headers, _CLOSE]
        self.transport.write(_written(b"400 Bad Request", headers, reply.body))
        self.transport.close()


class _Deaf:
    """A parser for what comes after the end."""

    def feed_data(self, data: bytes) -> None: ...


_CLOSE: Final = (b"connection", b"close")
_refusals: Final[dict[type[Overloaded], Reply]] = {}


def _written(status: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    head = b"".join(b"%s: %s\r\n" % header for header in (*headers, (b"content-length", b"%d" % len(body))))
    return b"HTTP/1.1 %s\r\n%s\r\n%s" % (status, head, body)


class OneWriteTransport:
    """A transport whose writes of one turn go out together, at its end. All else is the transport's own."""

    __slots__ = ("_loop", "_parts", "_size", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MOST_BYTES:
            self._flush()

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        # A client that went away since is written nothing: uvloop would raise.
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
