"""The kinds of panels that the dashboards are made of. Each has a unit, thresholds, and says what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS: Final = DataSourceRef(type_val="prometheus", uid="prometheus")
GREEN, AMBER, RED = "green", "orange", "red"
WIDTH: Final = 24
HIGH: Final = 8
LOW: Final = 4

# A query and what its lines are called.
Query = tuple[str, str]
# From which value on it is amber, and red. A pair that falls means that less is worse.
Limits = tuple[float, float] | None


def new(uid: str, title: str, description: str) -> Dashboard:
    """An empty dashboard of the last hour."""
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["jobserver"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )


def variable(name: str, label: str, description: str) -> QueryVariable:
    """A choice among the values of a label."""
    return (
        QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(PROMETHEUS)
        .query(f"label_values(jobserver_jobs_created_total, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def figure(title: str, description: str, unit: str, query: str, limits: Limits = None, *, width: int = 4) -> stat.Panel:
    """One number, and its course behind it."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .thresholds(_thresholds(limits))
        .color_mode(BigValueColorMode.VALUE if limits is None else BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(width)
        .height(LOW)
        .with_target(_target("A", (query, "")))
    )


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    limits: Limits = None,
    *,
    width: int = 12,
    stacked: bool = False,
    exemplars: bool = False,
    top: float | None = None,
) -> timeseries.Panel:
    """Lines over time. `exemplars`: points that lead to a trace; `top`: the end of the axis."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .thresholds(_thresholds(limits))
        .thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                GraphThresholdsStyleMode.OFF if limits is None else GraphThresholdsStyleMode.DASHED
            )
        )
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL if stacked else StackingMode.NONE))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .span(width)
        .height(HIGH)
    )
    if top is not None:
        panel = panel.max(top)
    for number, query in enumerate(queries):
        # Exemplars belong to the histogram, so one query of it brings them all.
        target = _target(chr(ord("A") + number), query)
        panel = panel.with_target(target.exemplar(exemplars and number == 0))
    return panel


def heat(title: str, description: str, query: str, *, width: int = 12) -> heatmap.Panel:
    """Where the values of a histogram of seconds fell, over time."""
    target = _target("A", (query, "{{le}}")).format(PromQueryFormat.HEATMAP).exemplar(True)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit("s")
        .thresholds(_thresholds(None))
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .cell_gap(1)
        .show_legend()
        .span(width)
        .height(HIGH)
        .with_target(target)
    )


def _target(ref: str, query: Query) -> prometheus.Dataquery:
    expression, legend = query
    return prometheus.Dataquery().ref_id(ref).datasource(PROMETHEUS).expr(expression).legend_format(legend).range()


def _thresholds(limits: Limits) -> ThresholdsConfig:
    steps = [Threshold(None, GREEN)]
    if limits is not None:
        amber, red = limits
        if amber <= red:
            steps += [Threshold(amber, AMBER), Threshold(red, RED)]
        else:
            # Less is worse: red from the bottom up to the lower, amber up to the higher.
            steps = [Threshold(None, RED), Threshold(red, AMBER), Threshold(amber, GREEN)]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
