"""What stands in grafana/, read for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

PROJECT: Final = Path(__file__).parents[2]
GRAFANA: Final = PROJECT / "grafana"
FILES: Final = sorted((GRAFANA / "dashboards").glob("*.json"))
RULES: Final = GRAFANA / "alerts" / "rules.yml"


def panels(path: Path) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    yield from (panel for panel in json.loads(path.read_text(encoding="utf-8"))["panels"] if panel["type"] != "row")


def expressions(path: Path) -> Iterator[str]:
    """Its queries."""
    for panel in panels(path):
        yield from (target["expr"] for target in panel["targets"])


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found
