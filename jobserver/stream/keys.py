"""Every key in Redis, its type, and the channel of the wake-ups.

All keys share one hash tag, so that a script may touch any of them in a cluster.

| key | type | holds |
|---|---|---|
| `{prefix}:jobs:<queue>:<priority>` | stream | messages `id:fence:available_at` of jobs that are due |
| `{prefix}:delayed:<queue>:<priority>` | sorted set | `id:fence` of jobs due within the near horizon, by due time |
| `{prefix}:dlq` | stream | a capped feed of jobs that failed |
| `{prefix}:incarnation` | string | names this content of Redis; gone or changed when it was wiped |
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

    def jobs(self, queue: str, priority: Priority) -> str:
        # Asked for each message: a thousand queues have three each.
        key = self._jobs.get((queue, priority))
        if key is None:
            key = self._jobs[queue, priority] = f"{self._tag}:jobs:{queue}:{priority.label}"
        return key

    def delayed(self, queue: str, priority: Priority) -> str:
        return f"{self._tag}:delayed:{queue}:{priority.label}"
