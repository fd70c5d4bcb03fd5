"""The metrics of several processes on one page."""

from __future__ import annotations

import math

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from jobserver.telemetry.merge import Family, decode, encode, families_of, merged, page

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def families(jobs: int) -> list[Family]:
    """What a process has that did so many jobs, on the way that they come by."""
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs.", ("type",), registry=registry)
    counter.labels('a "quoted"\nname').inc(jobs)
    seconds = Histogram("seconds", "Seconds.", registry=registry, buckets=(1, 2))
    for number in range(jobs):
        seconds.observe(0.5, exemplar={"trace_id": f"t{number}"})
    Gauge("age", "Age.", registry=registry).set(math.inf)
    Info("build", "Build.", registry=registry).info({"version": "1"})
    return decode(encode(families_of(registry.collect())))


def test_a_family_is_there_once_and_each_sample_has_its_process() -> None:
    body, media_type = page(merged({0: families(2), 1: families(5)}, processes=2), OPENMETRICS)
    assert media_type.startswith("application/openmetrics-text")
    text = body.decode()
    assert text.count("# EOF\n") == 1
    found = {family.name: family for family in openmetrics(text)}
    assert list(found) == ["jobs", "seconds", "age", "build", "jobserver_process_up"]
    totals = {each.labels["process"]: each.value for each in found["jobs"].samples if each.name == "jobs_total"}
    assert totals == {"0": 2, "1": 5}
    assert {each.labels["type"] for each in found["jobs"].samples} == {'a "quoted"\nname'}
    assert {each.value for each in found["age"].samples} == {math.inf}
    assert all("process" in each.labels for family in found.values() for each in family.samples)


def test_exemplars_are_kept() -> None:
    body, _ = page(merged({0: families(2), 1: families(5)}, processes=2), OPENMETRICS)
    kept = {
        each.labels["process"]: each.exemplar.labels["trace_id"]
        for family in openmetrics(body.decode())
        for each in family.samples
        if each.exemplar is not None
    }
    assert kept == {"0": "t1", "1": "t4"}


def test_the_plain_page_is_valid_too() -> None:
    body, media_type = page(merged({0: families(1), 1: families(1)}, processes=2), "text/plain")
    assert media_type.startswith("text/plain")
    names = [family.name for family in plain(body.decode())]
    assert len(names) == len(set(names))


def test_a_process_that_is_missing_is_left_out_and_told_of() -> None:
    body, _ = page(merged({0: families(1), 2: families(1)}, processes=3), OPENMETRICS)
    found = {family.name: family for family in openmetrics(body.decode())}
    up = {each.labels["process"]: each.value for each in found["jobserver_process_up"].samples}
    assert up == {"0": 1, "1": 0, "2": 1}
    assert {each.labels["process"] for each in found["age"].samples} == {"0", "2"}


def test_a_family_of_another_kind_is_left_out() -> None:
    """Two releases side by side, in the middle of a reload."""
    other = [Family("age", "Age.", "counter", "", [])]
    [age] = [each for each in merged({0: families(1), 1: other}, processes=2) if each.name == "age"]
    assert (age.type, len(age.samples)) == ("gauge", 1)


@pytest.mark.parametrize("data", [b"", b"{}", b"\x91\x91\x01", encode(families(1))[:-3]])
def test_bytes_that_are_cut_off_or_none_of_ours_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(data)
