"""The dashboards that Grafana reads are those that the Python writes, and are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.grafana.files import FILES, GRAFANA, PROJECT, expressions, panels, rules

METRIC: Final = re.compile(r"\bjobserver_\w+")
# What is shown alike by every process: these lose their meaning when they are added up.
SHARED: Final = re.compile(
    r"jobserver_(jobs(?!_)|oldest_waiting_seconds|dead_letters|workers_alive|stream_entries|stream_pending|delayed_members)\b"
)


def metrics_of_the_page() -> set[str]:
    """The names that README documents, and tests compare with /metrics."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(jobserver_\w+)` \|", text, re.MULTILINE))


def test_the_files_are_what_the_python_writes() -> None:
    dashboards = pytest.importorskip("grafana.dashboards", reason="grafana-foundation-sdk is of the dev extra")
    assert {path.stem for path in FILES} == set(dashboards.DASHBOARDS) == {"overview", "job-type", "internals"}
    for path in FILES:
        made = dashboards.as_json(dashboards.DASHBOARDS[path.stem])
        assert path.read_text(encoding="utf-8") == made, "run: just dashboards"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_says_what_it_shows_in_which_unit_and_when_it_is_bad(path: Path) -> None:
    titles = []
    for panel in panels(path):
        titles.append(panel["title"])
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in {"ops", "s", "short", "percentunit"}, panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None, panel["title"]
        assert panel["datasource"]["uid"] == "prometheus"
        assert panel["targets"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert len(titles) == len(set(titles)) or path.stem == "job-type"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_two_panels_lie_upon_each_other(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_metric_of_a_query_exists(path: Path) -> None:
    known = metrics_of_the_page()
    for expression in expressions(path):
        for name in METRIC.findall(expression):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in known or name in known, expression


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    queries = [expression for path in FILES for expression in expressions(path)] + [rule["expr"] for rule in rules()]
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for query in queries for name in METRIC.findall(query)}
    assert metrics_of_the_page() - shown == set()


def test_what_every_process_repeats_is_never_added_up() -> None:
    queries = [expression for path in FILES for expression in expressions(path)]
    alerts = [rule["expr"] for rule in rules()]
    assert any(SHARED.search(query) for query in queries)
    for query in [*queries, *alerts]:
        for found in SHARED.finditer(query):
            before = query[: found.start()]
            assert re.search(r"max(?: by \([^)]*\))? ?\((?:delta\()?$", before), query


def test_exemplars_lead_to_their_trace() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/datasources.yml").read_text(encoding="utf-8"))
    by_uid = {source["uid"]: source for source in sources["datasources"]}
    assert set(by_uid) == {"prometheus", "jaeger"}
    [destination] = by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (destination["name"], destination["datasourceUid"]) == ("trace_id", "jaeger")
    shown = [
        panel["title"]
        for panel in panels(GRAFANA / "dashboards" / "job-type.json")
        if any(target.get("exemplar") for target in panel["targets"])
    ]
    assert shown == ["Duration of attempts", "Duration of attempts", "From created to terminal"]


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    known = metrics_of_the_page()
    for rule in rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        for name in METRIC.findall(rule["expr"] + rule["annotations"]["runbook"]):
            assert name in known, (rule["alert"], name)
