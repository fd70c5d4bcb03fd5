"""`jobserver` with one of its levers taken away, to know what the lever is worth: started by `bench.ablations`.

    python -m bench.ablated LEVER serve ...

Each lever is replaced from outside, before the server is built: the server itself has no switch for it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

import uvicorn

import jobserver.cli
import jobserver.cli.serve
from jobserver.pipeline.batch import Batcher


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
    jobserver.cli.serve._spare_the_collector = lambda: None


LEVERS: Final[dict[str, Callable[[], None]]] = {
    lever.__name__: lever for lever in (batching, flights, uvloop, httptools, collector)
}


def _with_defaults(kind: type[Any], **forced: Any) -> None:
    """Whoever makes one gets these, whatever they ask for."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **options: Any) -> None:
        made(self, *args, **{**options, **forced})

    kind.__init__ = init


def main() -> None:
    LEVERS[sys.argv[1]]()
    sys.exit(jobserver.cli.run(sys.argv[2:]))


if __name__ == "__main__":
    main()
