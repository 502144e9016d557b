"""Writes tokenworks.json, the Grafana dashboard, beside itself: `python -m deploy.grafana.build`.

A dashboard file is mostly position and decoration, which is made here; what matters of it stands in `panels`. A test
holds that the file is what this writes, that Prometheus parses every expression, and that a gateway has every metric
and label in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from deploy.grafana.panels import ROWS, TABLE, Panel, Query

FILE: Final = Path(__file__).with_name("tokenworks.json")
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
COLUMNS: Final = 24
HEIGHT: Final = 8
Json = dict[str, Any]
_READING: Final[Json] = {  # all lines of a moment at once, largest first; the latest value beside each name
    "tooltip": {"mode": "multi", "sort": "desc"},
    "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"]},
}


def dashboard() -> Json:
    """The whole file."""
    panels: list[Json] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(_row(title, y, len(panels)))
        y += 1
        for line in _lines(row):
            x = 0
            for panel in line:
                panels.append(_panel(panel, {"x": x, "y": y, "w": panel.width, "h": HEIGHT}, len(panels)))
                x += panel.width
            y += HEIGHT
    return {
        "title": "Tokenworks",
        "uid": "tokenworks",
        "tags": ["tokenworks", "llm"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source_variable(), _scenario_variable()]},
        "panels": panels,
    }


def _lines(row: Iterable[Panel]) -> list[list[Panel]]:
    lines: list[list[Panel]] = [[]]
    for panel in row:
        if sum(each.width for each in lines[-1]) + panel.width > COLUMNS:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _row(title: str, y: int, number: int) -> Json:
    grid = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"type": "row", "id": number + 1, "title": title, "collapsed": False, "gridPos": grid, "panels": []}


def _panel(panel: Panel, grid: Json, number: int) -> Json:
    is_table = panel.kind == "table"
    custom = {"fillOpacity": 20, "stacking": {"mode": "normal"}} if panel.is_stacked else {}
    made = {
        "type": panel.kind,
        "id": number + 1,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": grid,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [_target(query, chr(ord("A") + at), is_table) for at, query in enumerate(panel.queries)],
    }
    if not is_table:
        made["options"] = _READING
    if panel.title == "By scenario":
        made |= _named_columns()
    return made


def _target(query: Query, letter: str, is_table: bool) -> Json:
    target: Json = {"refId": letter, "datasource": SOURCE, "expr": query.expr, "legendFormat": query.legend or "__auto"}
    if is_table:
        target |= {"format": "table", "instant": True, "range": False}
    if query.has_exemplars:
        target["exemplar"] = True
    return target


def _named_columns() -> Json:
    """One row a scenario, one named column a query, each in its unit."""
    letters = [chr(ord("A") + at) for at in range(len(TABLE))]
    names = {f"Value #{letter}": name for letter, name in zip(letters, TABLE, strict=True)}
    overrides = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, (_, unit) in TABLE.items()
    ]
    return {
        "fieldConfig": {"defaults": {"decimals": 3}, "overrides": overrides},
        "transformations": [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ],
    }


def _source_variable() -> Json:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _scenario_variable() -> Json:
    return {
        "name": "scenario",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(tokenworks_records_total, scenario)", "refId": "scenarios"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """What stands in the file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
