"""From a seed to what happens: the sequence of faults, and the jobs of the load. The same seed, the same plan."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

QUEUES: Final = ("default", "bulk", "mail")
PRIORITIES: Final = ("high", "normal", "normal", "low")
FIRST_SECONDS: Final = 2.0
COMPLETED: Final = frozenset({"completed"})
FAILED: Final = frozenset({"failed"})

Engine = Literal["sql", "redis"]
# Faults of a lane come one after another; of two lanes, two may be under way at once.
Lane = Literal["redis", "others"]
Follow = Literal["nothing", "cancel", "replay", "look"]
# Jobs that are themselves faults.
Single = Literal["poison", "block", "hang"]


QUIET_SECONDS: Final[Mapping[Lane, tuple[float, float]]] = {"redis": (3.0, 8.0), "others": (0.8, 2.5)}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fault to inject: when, counted from the start of the load, for how long, and on what."""

    at: float
    fault: str
    seconds: float
    slot: int
    engine: Engine
    # Whether a clock that is moved goes ahead.
    ahead: bool


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A job to submit, what may become of it, and what the load does next. `twice`: sent to two processes at once."""

    body: dict[str, Any]
    expected: frozenset[str]
    follow: Follow
    after_seconds: float
    twice: bool

    @property
    def type(self) -> str:
        return str(self.body["type"])


def fault_events(
    seed: int, lane: Lane, durations: Mapping[str, tuple[float, float]], *, seconds: float, processes: int
) -> list[Event]:
    """The faults of a lane: one after another until the time is used up, all of them before any comes again.

    `durations` has the shortest and longest time of each fault to choose from.
    """
    chosen = random.Random(f"faults {seed} {lane}")  # noqa: S311
    events: list[Event] = []
    at = FIRST_SECONDS
    while durations:
        for name in _shuffled(chosen, sorted(durations)):
            lasts = chosen.uniform(*durations[name])
            event = Event(
                at=round(at, 3),
                fault=name,
                seconds=round(lasts, 3),
                slot=chosen.randrange(processes),
                engine=chosen.choice(("sql", "redis")),
                ahead=chosen.random() < 0.5,
            )
            if at + lasts > seconds:
                return events
            events.append(event)
            at += lasts + chosen.uniform(*QUIET_SECONDS[lane])
    return events


def planned_job(seed: int, number: int) -> Planned:
    """The `number`-th job of the load."""
    chosen = random.Random(f"job {seed} {number}")  # noqa: S311
    kind = chosen.choices(tuple(_KINDS), weights=[weight for weight, _, _ in _KINDS.values()])[0]
    _, fields, expected = _KINDS[kind]
    body: dict[str, Any] = {
        "type": f"torture.{fields.get('type', kind)}",
        "queue": chosen.choice(QUEUES),
        "priority": chosen.choice(PRIORITIES),
        "idempotency_key": f"torture-{seed}-{number}",
        "tags": ["torture"],
    }
    if "seconds" in fields:
        body["payload"] = {"seconds": round(chosen.uniform(*fields["seconds"]), 3)}
    if "times" in fields:
        body["payload"] = {"times": chosen.randint(1, fields["times"])}
    if "delay" in fields:
        body["delay"] = round(chosen.uniform(*fields["delay"]), 3)
    follow: Follow = fields.get("follow", "look" if chosen.random() < 0.1 else "nothing")
    return Planned(
        body=body,
        expected=expected,
        follow=follow,
        after_seconds=round(chosen.uniform(0.2, 3.0), 3),
        twice=chosen.random() < 0.05,
    )


# weight, what is chosen within, how it may end when nobody cancels it
_KINDS: Final[Mapping[str, tuple[float, dict[str, Any], frozenset[str]]]] = {
    "work": (50, {"seconds": (0.0, 0.05)}, COMPLETED),
    "delayed": (12, {"type": "work", "seconds": (0.0, 0.05), "delay": (0.1, 3.0)}, COMPLETED),
    "thread": (8, {"seconds": (0.0, 0.1)}, COMPLETED),
    "process": (3, {"seconds": (0.0, 0.05)}, COMPLETED),
    "flaky": (6, {"times": 2}, COMPLETED),
    "snooze": (5, {"times": 2}, COMPLETED),
    "slow": (5, {"seconds": (1.0, 4.0)}, COMPLETED),
    "fail": (4, {}, FAILED),
    "replayed": (2, {"type": "fail", "follow": "replay"}, FAILED),
    "canceled": (3, {"type": "slow", "seconds": (1.0, 4.0), "follow": "cancel"}, COMPLETED),
    "canceled waiting": (
        2,
        {"type": "work", "seconds": (0.0, 0.05), "delay": (1.0, 4.0), "follow": "cancel"},
        COMPLETED,
    ),
}


def single_job(seed: int, kind: Single, number: int, payload: object) -> Planned:
    """A job that is itself the fault."""
    return Planned(
        body={
            "type": f"torture.{kind}",
            "payload": payload,
            "priority": "high",
            "max_retries": 3,
            "idempotency_key": f"torture-{seed}-{kind}-{number}",
        },
        expected=FAILED if kind == "poison" else COMPLETED,
        follow="nothing",
        after_seconds=0.0,
        twice=False,
    )


def _shuffled(chosen: random.Random, names: Sequence[str]) -> list[str]:
    return chosen.sample(names, len(names))
