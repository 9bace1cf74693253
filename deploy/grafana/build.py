"""Makes Grafana's JSON of `panels.py`: python deploy/grafana/build.py; with --check it says whether that was done."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import BOARDS, Board, Panel

TARGET = Path(__file__).parent / "dashboards"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 12, 8
VARIABLES = {
    "instance": ("Gateway", 'label_values(up{job="zephyra"}, instance)'),
    "adapter": ("Adapter", "label_values(zephyra_requests_total, adapter)"),
    "engine": ("Engine", 'label_values(up{job="vllm"}, instance)'),
}


def make(board: Board) -> dict[str, Any]:
    """The dashboard's JSON, two panels to a row."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["zephyra"])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for name in board.variables:
        builder = builder.with_variable(_variable(name))
    for index, panel in enumerate(board.panels):
        place = models.GridPos(h=HEIGHT, w=WIDTH, x=WIDTH * (index % 2), y=HEIGHT * (index // 2))
        builder = builder.with_panel(_panel(panel).id(index + 1).grid_pos(place))
    made: dict[str, Any] = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    return made


def _variable(name: str) -> dashboard.QueryVariable:
    label, query = VARIABLES[name]
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # Not the list of values: what is refused before an adapter is chosen has an empty one.
        .all_value(".*")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _panel(panel: Panel) -> Any:
    builder: Any = {"stat": stat.Panel, "heatmap": heatmap.Panel}.get(panel.kind, timeseries.Panel)()
    builder = builder.title(panel.title).description(panel.description).datasource(SOURCE).unit(panel.unit)
    if panel.kind == "heatmap":
        builder = builder.unit("short").y_axis(heatmap.YAxisConfig().unit(panel.unit).min(0).max(1))
        builder = builder.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
    elif panel.kind == "stat":
        builder = builder.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    else:
        builder = builder.min(0).legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shapes.LegendDisplayMode.TABLE)
            .placement(shapes.LegendPlacement.RIGHT)
            .calcs(["lastNotNull", "max"])
        )
    if panel.kind == "stack":
        stacked = common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A")
        builder = builder.fill_opacity(30).stacking(stacked)
    for index, (query, legend) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(chr(ord("A") + index))
        if panel.kind == "heatmap":
            target = target.format(PromQueryFormat.HEATMAP)
        builder = builder.with_target(target)
    return builder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    check = parser.parse_args().check
    stale = []
    for name, board in BOARDS.items():
        file, text = TARGET / f"{name}.json", json.dumps(make(board), indent=1, sort_keys=True) + "\n"
        if check and (not file.exists() or file.read_text() != text):
            stale.append(file.name)
        elif not check:
            file.write_text(text)
    if stale:
        print(f"not as panels.py says: {', '.join(stale)}; run python deploy/grafana/build.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
