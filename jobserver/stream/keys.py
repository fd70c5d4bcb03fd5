"""Every key in Redis, its type, and the channel of the wake-ups.

All keys share one hash tag, so that a script may touch any of them in a cluster.

| key | type | holds |
|---|---|---|
| `{prefix}:jobs:<queue>:<priority>` | stream | messages `id:fence:available_at` of jobs that are due |
| `{prefix}:delayed:<queue>:<priority>` | sorted set | `id:fence` of jobs due within the near horizon, by due time |
| `{prefix}:dlq` | stream | a capped feed of jobs that failed |
| `{prefix}:incarnation` | string | names this content of Redis; gone or changed when it was wiped |
| `{prefix}:events` | stream | transitions, an entry a flush, capped by their number |
| `{prefix}:feed` | hash | names this content of the events (`feed`), and how many there have been (`count`) |
| `{prefix}:marks` | list | every now and then an entry of the events, and their number up to it |
| `{prefix}:sent:<worker>` | string | the number of the last entry of a process, so that none is added twice |
| `{prefix}:progress` | stream | the latest of what handlers said of themselves |
| `{prefix}:activity` | stream | what the counters of each process grew by every five seconds, capped by number |
| `{prefix}:limits:…` | strings | the submits of a caller in a window, with a time to live |
| `{prefix}:wake` | channel | ids of running jobs whose cancel was requested |
"""

from __future__ import annotations

from typing import Final

from jobserver.job.model import Priority

GROUP: Final = "jobserver"


class Keys:
    """The keys below one prefix."""

    def __init__(self, prefix: str) -> None:
        self._tag = f"{{{prefix}}}"
        self._jobs: dict[tuple[str, Priority], str] = {}
        self.dlq: Final = f"{self._tag}:dlq"
        self.incarnation: Final = f"{self._tag}:incarnation"
        self.wake: Final = f"{self._tag}:wake"
        self.events: Final = f"{self._tag}:events"
        self.feed: Final = f"{self._tag}:feed"
        self.marks: Final = f"{self._tag}:marks"
        self.progress: Final = f"{self._tag}:progress"
        self.activity: Final = f"{self._tag}:activity"
        # What the library of the rate limits begins its keys with.
        self.limits: Final = f"{self._tag}:limits"

    def jobs(self, queue: str, priority: Priority) -> str:
        # Asked for each message: a thousand queues have three each.
        key = self._jobs.get((queue, priority))
        if key is None:
            key = self._jobs[queue, priority] = f"{self._tag}:jobs:{queue}:{priority.label}"
        return key

    def sent(self, worker_id: str) -> str:
        return f"{self._tag}:sent:{worker_id}"

    def delayed(self, queue: str, priority: Priority) -> str:
        return f"{self._tag}:delayed:{queue}:{priority.label}"
