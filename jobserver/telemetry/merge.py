"""The metrics of several processes as one page: each family once, each sample with the number of its process.

What one process has is carried to another as msgpack, exemplars included. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

PROCESS: Final = "process"
UP: Final = "jobserver_process_up"
_UP_TEXT: Final = "Whether the process with this number answered when it was asked for its metrics."


class CarriedExemplar(msgspec.Struct, frozen=True, array_like=True):
    labels: dict[str, str]
    value: float
    timestamp: float | None


class CarriedSample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float
    exemplar: CarriedExemplar | None


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric of one process: its name, what it means, its kind, its samples in order."""

    name: str
    text: str
    kind: str
    unit: str
    samples: list[CarriedSample]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Family])


def families_of(collected: Iterable[Metric]) -> list[Family]:
    """What a registry has now."""
    return [
        Family(metric.name, metric.documentation, metric.type, metric.unit, [_carried(each) for each in metric.samples])
        for metric in collected
    ]


def encode(families: Sequence[Family]) -> bytes:
    return _encoder.encode(families)


def decode(data: bytes) -> list[Family]:
    """Raises msgspec.MsgspecError for bytes that are none of ours."""
    return _decoder.decode(data)


def merged(by_process: Mapping[int, Sequence[Family]], *, processes: int) -> list[Metric]:
    """One metric a name. Those of the processes that are missing are left out, and `jobserver_process_up` says so."""
    up = GaugeMetricFamily(UP, _UP_TEXT, labels=(PROCESS,))
    for number in range(processes):
        up.add_metric((str(number),), float(number in by_process))
    metrics: dict[str, Metric] = {}
    for number, families in sorted(by_process.items()):
        for family in families:
            metric = metrics.get(family.name)
            if metric is None:
                metric = metrics[family.name] = Metric(family.name, family.text, family.kind, family.unit)
            # Two releases side by side, in the middle of a restart, may disagree: the first one is right.
            if metric.type == family.kind:
                metric.samples.extend(_sample(each, number) for each in family.samples)
    return [*metrics.values(), up]


def page(metrics: Sequence[Metric], accept: str) -> tuple[bytes, str]:
    """The page for an Accept header: its body and its media type."""
    encode_page, content_type = choose_encoder(accept)
    return encode_page(_Collected(metrics)), content_type


def _carried(sample: Sample) -> CarriedSample:
    seen = sample.exemplar
    exemplar = None
    if seen is not None:
        at = None if seen.timestamp is None else float(seen.timestamp)
        exemplar = CarriedExemplar(dict(seen.labels), seen.value, at)
    return CarriedSample(sample.name, sample.labels, sample.value, exemplar)


def _sample(carried: CarriedSample, number: int) -> Sample:
    seen = carried.exemplar
    exemplar = None if seen is None else Exemplar(seen.labels, seen.value, seen.timestamp)
    return Sample(carried.name, {**carried.labels, PROCESS: str(number)}, carried.value, None, exemplar)


class _Collected(Collector):
    """What an encoder of prometheus_client takes for a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)
