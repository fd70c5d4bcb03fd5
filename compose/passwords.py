"""Makes compose/.env with passwords and API keys of its own when there is none; one that is there is left alone."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final

NAMES: Final = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD")
# API keys: for people, and for Prometheus.
KEYS: Final = ("JOBSERVER_API_KEY", "METRICS_API_KEY")


def make(path: Path) -> bool:
    """Write the file, for its owner's eyes only. False: it was there."""
    try:
        # At once or not at all, and never readable by others.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with open(descriptor, "w", encoding="ascii") as file:
        # Of letters and digits: they stand in URLs.
        file.writelines(f"{name}={secrets.token_hex(24)}\n" for name in NAMES)
        file.writelines(f"{name}=jsk_{secrets.token_hex(32)}\n" for name in KEYS)
    return True


if __name__ == "__main__":
    made = make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name(".env"))
    names = "(Grafana: admin, GRAFANA_PASSWORD; the API: JOBSERVER_API_KEY)"
    print(f"passwords made: compose/.env {names}" if made else "passwords: compose/.env")  # noqa: T201
