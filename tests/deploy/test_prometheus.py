"""The files under deploy/ for Prometheus and Grafana: promtool accepts them, and they name what a gateway shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.grafana import build
from tokenworks.cli.reference import _NothingYet
from tokenworks.gateway.metrics.metrics import Metrics

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = PROMETHEUS / "rules.yml"
TARGET_LABELS = {"job", "instance", "alertname", "alertstate"}  # that Prometheus adds
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus"
)


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def panels() -> Iterator[tuple[str, str]]:
    """Title and expression of every query of the dashboard."""
    for panel in json.loads(build.FILE.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def rule_expressions() -> Iterator[tuple[str, str]]:
    """Name and expression of every rule."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule.get("alert") or rule["record"], rule["expr"]


def plain(expression: str) -> str:
    """An expression without Grafana's variables."""
    return expression.replace("$__rate_interval", "5m").replace("$scenario", ".*")


def shown() -> dict[str, set[str]]:
    """Every series that a gateway shows, and the labels of each."""
    found: dict[str, set[str]] = {}
    registry = Metrics(_NothingYet()).registry
    for family in registry.collect():
        labels = set(getattr(family, "_labelnames", ()))
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for ending in endings:
            found[family.name + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


@needs_promtool
def test_promtool_accepts_rules_and_configuration() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@needs_promtool
def test_each_alert_fires_where_it_must_and_is_silent_where_it_must_be() -> None:
    promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_each_alert_has_a_test_of_both_kinds() -> None:
    alerts = set(re.findall(r"- alert: (\S+)", RULES.read_text()))
    tests = (PROMETHEUS / "rules_test.yml").read_text()
    silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
    assert silent == alerts
    assert fires == alerts


@needs_promtool
def test_prometheus_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{at}", "expr": plain(expression)} for at, (_, expression) in enumerate(panels())]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", str(file))


def test_dashboard_and_rules_name_metrics_and_labels_that_a_gateway_shows() -> None:
    known = shown()
    recorded = set(re.findall(r"- record: (\S+)", RULES.read_text()))
    labels = set().union(*known.values()) | TARGET_LABELS
    expressions = [*panels(), *rule_expressions()]
    assert len(expressions) > 60
    for title, expression in expressions:
        bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|(?:by|on|without) \([^)]*\)", " ", expression)
        names = set(re.findall(r"\b(?:tokenworks|gen_ai)[\w:]*", bare)) - labels
        assert names <= known.keys() | recorded, title
        assert names or re.search(r"ALERTS|\bup\b", expression), title
        matched = re.findall(r"([a-z_]+)(?:=~|!=|=)\"", expression)
        grouped = [each.strip() for inside in re.findall(r"by \(([^)]*)\)", expression) for each in inside.split(",")]
        assert {*matched, *grouped} <= labels, title


def test_a_selector_names_only_labels_of_its_own_metric() -> None:
    known = shown()
    for title, expression in [*panels(), *rule_expressions()]:
        for name, inside in re.findall(r"((?:tokenworks|gen_ai)\w*)\{([^}]*)\}", expression):
            labels = {matcher.split("=")[0].rstrip("!~").strip() for matcher in re.split(r",(?=\w+[=!])", inside)}
            assert labels <= known[name] | TARGET_LABELS, (title, name)


def test_legends_name_labels_that_exist() -> None:
    labels = set().union(*shown().values()) | TARGET_LABELS
    for panel in json.loads(build.FILE.read_text())["panels"]:
        for target in panel.get("targets", []):
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert build.FILE.read_text(encoding="utf-8") == build.text(), "run `python -m deploy.grafana.build`"


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(build.FILE.read_text())["panels"]:
        grid = panel["gridPos"]
        places = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert max(x for x, _ in places) < build.COLUMNS
        assert not places & taken
        taken |= places
        assert panel["type"] == "row" or panel["description"].endswith(".")
