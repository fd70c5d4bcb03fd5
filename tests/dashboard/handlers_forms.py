"""The same handlers, and some for forms: arguments of every kind, failures that a replay mends."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from jobserver import Attempt, NotRetryable
from tests.dashboard.handlers_shown import handlers

__all__ = ["handlers"]

# A job's first run has the fence 1, that of its first replay 4 or more.
REPLAYED = 3


class Format(enum.Enum):
    PDF = "pdf"
    PAPER = "paper"


class Address(msgspec.Struct):
    street: str
    city: Annotated[str, Meta(description="Where it is", max_length=40)]
    zip: str | None = None


class Cash(msgspec.Struct, tag="cash"):
    amount: float


class Card(msgspec.Struct, tag="card"):
    number: str


@handlers.handler("order.ship", queue="shipping", max_retries=5, timeout=30)
async def ship(
    to: Annotated[str, Meta(description="Who receives it", min_length=3)],
    items: Annotated[int, Meta(ge=1, le=5)],
    address: Address,
    invoice: Format,
    speed: Literal["standard", "express"] = "standard",
    pay: Cash | Card | None = None,
    labels: list[str] = [],  # noqa: B006 -- each call gets a copy
    limits: dict[str, int] = {},  # noqa: B006
    size: tuple[int, int] = (1, 1),
    gift: bool = False,
    insured: bool = True,
    weight: float = 0.5,
    note: Any = None,
) -> str:
    """Packs and ships an order."""
    return f"{items} to {to}"


@handlers.handler("shown.mended", queue="slow", max_retries=0)
async def mended(attempt: Attempt, order: int, again: bool = False) -> int:
    """Fails at first; a replay completes, unless it is to fail again."""
    if attempt.fence < REPLAYED or again:
        raise NotRetryable(f"order {order} met a bug")
    return order
