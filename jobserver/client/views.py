"""What the clients show and ask for, beside the views that HTTP answers with."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from jobserver.job.model import TERMINAL, Status
from jobserver.job.wire import JobView


class Job(JobView, frozen=True, kw_only=True):
    """A job as the server showed it, payload and result decoded."""

    payload: Any
    result: Any

    @property
    def ended(self) -> bool:
        """Whether it is completed, failed or canceled."""
        return self.status in TERMINAL


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list of jobs."""

    items: builtins.list[Job]
    total: int
    total_capped: bool
    limit: int
    offset: int
    next_cursor: str | None
    partial: bool = False


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the audit log: who did what, and to how many. `key_name` is None where no key was needed."""

    at: datetime
    action: str
    key_name: str | None = None
    address: str | None = None
    target: Any = None
    changed: int | None = None


class Actions(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the audit log."""

    items: builtins.list[Action]
    next_cursor: str | None = None


class DeadFilters(TypedDict, total=False):
    """Which failed jobs a list shows. Times need a zone; `q` is a part of the payload, `error` one of the error."""

    type: str | None
    queue: str | None
    tag: str | None
    created_after: datetime | str | None
    created_before: datetime | str | None
    q: str | None
    error: str | None
    fingerprint: str | None


class Filters(DeadFilters, total=False):
    """Which jobs a list shows, or a command is about: the same, and their states."""

    status: Status | str | Iterable[Status | str] | None


class EventFilters(TypedDict, total=False):
    """Which events are watched."""

    type: str | None
    queue: str | None
    status: Status | str | Iterable[Status | str] | None


class Selection(TypedDict, total=False):
    """Which failed jobs a command is about; `all=True` says that no filter is meant."""

    type: str | None
    queue: str | None
    fingerprint: str | None
    all: bool
    dry_run: bool
