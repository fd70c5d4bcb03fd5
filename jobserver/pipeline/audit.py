"""Audit: who did what to jobs and queues, and to how many. An action is noted before it is done, its count after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from jobserver.access import ActionPage, Caller
from jobserver.errors import DatabaseUnavailable, Refused
from jobserver.pipeline.ids import Ids
from jobserver.store.access import AccessStore
from jobserver.telemetry import Telemetry


class Noted:
    """An action under way. `changed` is how many things it has changed."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        self.changed = 0


class Audit:
    """The audit log of one process's admin actions, and the view of everybody's."""

    def __init__(self, store: AccessStore, telemetry: Telemetry) -> None:
        self._store = store
        self._telemetry = telemetry
        self._ids = Ids(store.database.clock.now_us)

    @asynccontextmanager
    async def action(
        self, caller: Caller, address: str | None, action: str, target: dict[str, object]
    ) -> AsyncIterator[Noted]:
        """Around an action. Raises DatabaseUnavailable before it is done, if it cannot be noted.

        What was refused has changed nothing; of what failed in any other way nobody knows how much it changed.
        """
        action_id = self._ids.next()
        await self._store.begin_action(action_id, caller, address, action, target)
        noted = Noted()
        changed: int | None = None
        try:
            yield noted
            changed = noted.changed
        except Refused:
            changed = 0
            raise
        finally:
            self._telemetry.acted(action, target, changed, key=caller.name, key_id=caller.id, address=address)
            if changed is not None:
                await self._end(action_id, changed)

    async def _end(self, action_id: UUID, changed: int) -> None:
        # It is done, and noted without its count: no reason to tell the client otherwise.
        try:
            await self._store.end_action(action_id, changed)
        except DatabaseUnavailable as error:
            self._telemetry.warn("audit_incomplete", action_id=str(action_id), changed=changed, error=str(error))

    async def actions(self, *, limit: int, cursor: str | None) -> ActionPage:
        """A page of everybody's actions, newest first. Raises Invalid and DatabaseUnavailable."""
        return await self._store.actions(limit=limit, cursor=cursor)
