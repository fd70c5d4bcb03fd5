"""What every process knows of the others: the types, with defaults and schemas, and the queues. SQL has both."""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import jsonschema_rs
import msgspec

from jobserver.errors import Invalid
from jobserver.job.handlers import Handlers
from jobserver.job.model import CALLBACK_QUEUE, Priority, TypeInfo
from jobserver.job.times import EPOCH
from jobserver.store.jobs import JobStore

logger = logging.getLogger(__name__)

MAX_QUEUES: Final = 1_000
# A registration has the time of its statement and is seen from its commit on: look back further than one takes.
_OVERLAP: Final = timedelta(seconds=60)


class Types:
    """The types that this process handles, and those that any other registered. Own ones come first."""

    def __init__(self, store: JobStore, handlers: Handlers, *, max_retries: int, timeout_seconds: float) -> None:
        self._store = store
        self._checks: dict[str, Callable[[bytes], object]] = {each.type: each.decode for each in handlers}
        self._own = {each.type: _registered(each, max_retries, timeout_seconds) for each in handlers}
        self._others: dict[str, TypeInfo] = {}
        self._seen = EPOCH
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    @property
    def own(self) -> Mapping[str, TypeInfo]:
        """The types that this process handles."""
        return self._own

    async def register(self) -> None:
        """Make the own types known to every process."""
        await self._store.register_types(list(self._own.values()))

    async def refresh(self) -> None:
        """Look what others registered since the last look."""
        asked = time.monotonic()
        registered = await self._store.types_since(self._seen - _OVERLAP)
        self._looked = asked
        for info, updated_at in registered:
            self._seen = max(self._seen, updated_at)
            if info.type not in self._own and self._others.get(info.type) != info:
                self._others[info.type] = info
                self._checks[info.type] = _schema_check(info.schema)

    async def find(self, name: str, *, within_seconds: float = 0.0) -> TypeInfo | None:
        """The type of that name, None when no process registered it, as of at most `within_seconds` ago."""
        info = self.get(name)
        if info is None:
            await self._look_after(time.monotonic() - within_seconds)
            info = self._others.get(name)
        return info

    def get(self, name: str) -> TypeInfo | None:
        """The type of that name, as far as this process knows."""
        return self._own.get(name) or self._others.get(name)

    def looked(self, *, within_seconds: float) -> bool:
        """Whether the last look at what others registered is no older than that."""
        return self._looked > time.monotonic() - within_seconds

    async def _look_after(self, moment: float) -> None:
        """A look that began after `moment`. Those who ask meanwhile share the next: one query at a time for all."""
        if self._looked > moment:
            return
        async with self._looking:
            if self._looked <= moment:
                await self.refresh()

    def near(self, name: str) -> Sequence[str]:
        """Known names that look like this one."""
        return difflib.get_close_matches(name, [*self._own, *self._others], n=3)

    def check(self, name: str, payload: bytes) -> None:
        """Raises Invalid below `$.payload` when the payload does not fit the handler's arguments."""
        self._checks[name](payload)


class Queues:
    """The queues and which of them are paused, as of the last look."""

    def __init__(self, store: JobStore, wanted: Sequence[str] | None) -> None:
        self._store = store
        # Whatever a process was started for, it tells of what has ended.
        self._wanted = None if wanted is None else tuple(dict.fromkeys([*wanted, CALLBACK_QUEUE]))
        self.paused: dict[str, bool] = {}

    async def refresh(self) -> None:
        self.paused = await self._store.queues()

    async def ensure(self, names: Iterable[str]) -> None:
        """Make sure that queues exist. Raises Invalid when there would be more than 1,000."""
        for name in names:
            if name in self.paused:
                continue
            if len(self.paused) >= MAX_QUEUES:
                raise Invalid("$.queue", f"there are {MAX_QUEUES} queues already, and {name!r} is not one of them")
            await self._store.add_queue(name)
            self.paused.setdefault(name, False)

    def served(self) -> list[str]:
        """The queues that this process reads: not paused, and among those it was started for."""
        names = self.paused if self._wanted is None else self._wanted
        return [name for name in names if not self.paused.get(name, False)]

    def streams(self) -> list[tuple[str, Priority]]:
        """Every stream of every queue."""
        return [(name, priority) for name in self.paused for priority in Priority]


def _registered(handler: Any, max_retries: int, timeout_seconds: float) -> TypeInfo:
    return TypeInfo(
        type=handler.type,
        queue=handler.queue,
        priority=handler.priority,
        max_retries=max_retries if handler.max_retries is None else handler.max_retries,
        timeout_seconds=timeout_seconds if handler.timeout_seconds is None else handler.timeout_seconds,
        schema=handler.schema(),
    )


def _schema_check(schema: dict[str, Any]) -> Callable[[bytes], object]:
    try:
        validator = jsonschema_rs.Draft202012Validator(schema, retriever=_refuse)
    except ValueError:
        # A schema that only the library of its own process can read: the worker checks again, before it runs a job.
        logger.warning("schema_unreadable", extra={"title": str(schema.get("title"))[:100]})
        return msgspec.json.decode
    takes_arguments = schema.get("type") == "object"

    def check(payload: bytes) -> None:
        value = msgspec.json.decode(payload)
        if value is None and takes_arguments:
            value = {}  # null means "no arguments"
        error = next(iter(validator.iter_errors(value)), None)
        if error is not None:
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
            raise Invalid(f"$.payload{path}", error.message[:500])

    return check


def _refuse(uri: str) -> Any:
    """A schema fetches nothing."""
    raise ValueError(f"{uri} is elsewhere")
