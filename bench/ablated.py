"""`jobserver` with one of its levers taken away, to know what the lever is worth: started by `bench.ablations`.

    python -m bench.ablated LEVER serve ...

Each lever is replaced from outside, before the server is built: the server itself has no switch for it.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
import uvicorn

import jobserver.cli
import jobserver.cli.serve
from jobserver.pipeline.batch import Batcher
from jobserver.store.engine import Statement


def batching() -> None:
    """Each submit, claim and end is a statement and a commit of its own; four of each at once."""
    _with_defaults(Batcher, max_weight=1, flights=4)


def flights() -> None:
    """A flush waits for the one before it."""
    _with_defaults(Batcher, flights=1)


def uvloop() -> None:
    """asyncio's own event loop."""
    jobserver.cli.serve.loop_factory = lambda: None


def httptools() -> None:
    """HTTP read by h11, in Python."""
    _with_defaults(uvicorn.Config, http="h11")


def collector() -> None:
    """Python's own thresholds, and nothing frozen."""
    jobserver.cli.serve.collect_seldom = lambda: None
    jobserver.cli.serve.spare_the_collector = lambda: None


def sql_claim() -> None:
    """A claim reads its rows and writes nothing, as if a delivery were enough. Only to know the price of a claim."""
    _with_texts(
        claim=(
            (
                r"UPDATE jobs AS j SET.*?\nFROM\n",
                "SELECT j.id, j.type, j.queue, j.priority, j.payload, j.tags, j.fence + 1 AS fence,"
                " j.attempt + 1 AS attempt, j.retry_count, j.max_retries, j.crashes, j.timeout_seconds, j.created_at,"
                " j.due_at, clock.now AS started_at, j.trace_context, j.cancel_requested, j.callback_url"
                " FROM jobs AS j,\n",
            ),
            # What the statement takes and does not need any more.
            (r"\bRETURNING\b.*", "AND ($3::text, $4::uuid, $5::float8) IS NOT NULL"),
        ),
        complete=(
            (r"j.status \|\| '' = 'running'", "j.status || '' = 'queued'"),
            (r"AND j.fence = i.fence", "AND j.fence = i.fence - 1"),
            # Its end is the first that SQL hears of it.
            (r"fence = j.fence \+ 1", "fence = i.fence + 1, started_at = clock.now"),
        ),
    )


LEVERS: Final[dict[str, Callable[[], None]]] = {
    lever.__name__: lever for lever in (batching, flights, sql_claim, uvloop, httptools, collector)
}


def _with_defaults(kind: type[Any], **forced: Any) -> None:
    """Whoever makes one gets these, whatever they ask for."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **{**options, **forced})

    kind.__init__ = init


def _with_texts(**changes: tuple[tuple[str, str], ...]) -> None:
    """Statements of PostgreSQL, each with its replacements: a pattern that stands there once, and what it becomes."""
    loaded = Statement.load.__func__  # type: ignore[attr-defined]

    def load(kind: type[Statement], name: str, dialect: str) -> Statement:
        statement: Statement = loaded(kind, name, dialect)
        text = statement.text
        for pattern, replacement in changes.get(name, ()) if dialect == "postgresql" else ():
            text, found = re.subn(pattern, lambda _, new=replacement: new, text, flags=re.DOTALL)
            if found != 1:
                raise RuntimeError(f"{name}: {pattern!r} is there {found} times")
        return msgspec.structs.replace(statement, text=text)

    Statement.load = classmethod(load)  # type: ignore[assignment, method-assign]


def main() -> None:
    LEVERS[sys.argv[1]]()
    sys.exit(jobserver.cli.run(sys.argv[2:]))


if __name__ == "__main__":
    main()
