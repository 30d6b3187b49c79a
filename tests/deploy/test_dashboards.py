"""The dashboard and the alerts: what they ask Prometheus for is what gateways and workers tell."""

import json
import re
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Expr, MatchOp, VectorSelector

from tests.stack import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/sonorant.json").read_text("utf-8"))
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text("utf-8"))
PROVISIONING = ROOT / "deploy/grafana/provisioning"

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

OF_TARGETS = {"job", "instance"}
"""Labels that Prometheus itself adds."""

SELDOM = {
    ("sonorant_gateway_requests_total", "outcome"): {"ok", "refused", "failed", "cut", "client_gone", "drained"},
    ("sonorant_gateway_workers", "state"): {"up", "starting", "draining", "down"},
}
"""What a label may be beside what it has been in a test."""


QUERIES = {
    f"{panel['id']} {panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
} | {rule["alert"]: rule["expr"] for rule in RULES}
"""Every expression, by where it stands."""


def parsed(expression: str) -> Expr:
    """Parse an expression, with Grafana's variables as something that can stand there."""
    return promql_parser.parse(re.sub(r"\$\w+", ".*", expression.replace("$__rate_interval", "5m")))


def all_of(kind: type, expression: Expr) -> list[Any]:
    """The parts of an expression that are of a kind."""
    found: list[Any] = []
    promql_parser.walk(expression, lambda part: found.append(part) if isinstance(part, kind) else None)
    return found


@pytest.mark.parametrize("where", QUERIES)
def test_every_query_asks_for_what_is_told(observed, where):
    expression = parsed(QUERIES[where])
    told = observed.labels
    selectors = all_of(VectorSelector, expression)
    assert selectors
    for selector in selectors:
        if selector.name == "up":
            continue
        assert selector.name in told
        for matcher in selector.matchers.matchers:
            assert matcher.name in told[selector.name] | OF_TARGETS
            known = observed.values(selector.name, matcher.name) | SELDOM.get((selector.name, matcher.name), set())
            if matcher.name not in OF_TARGETS and matcher.op == MatchOp.Equal:
                assert matcher.value in known
            elif matcher.op == MatchOp.Re and matcher.name not in OF_TARGETS:
                assert any(re.fullmatch(matcher.value, value) for value in known)
    for part in all_of(AggregateExpr, expression):
        labels = set(part.modifier.labels) if part.modifier else set()
        for selector in all_of(VectorSelector, part.expr):
            assert labels <= told.get(selector.name, set()) | OF_TARGETS


@pytest.mark.parametrize("where", QUERIES)
def test_both_sides_of_every_division_have_the_same_labels(where):
    for part in all_of(BinaryExpr, parsed(QUERIES[where])):
        sides = [side for side in (part.lhs, part.rhs) if isinstance(side, AggregateExpr)]
        assert len({frozenset(side.modifier.labels if side.modifier else ()) for side in sides}) <= 1


def test_counters_are_asked_for_their_rate_and_nothing_else_is(observed):
    rates = r"(?:rate|increase)\((\w+)\{?"
    scrapes = (*observed.gateway, *observed.worker)
    kinds = {family.name: family.type for scrape in scrapes for family in scrape.families.values()}
    for where, query in QUERIES.items():
        for name in re.findall(rates, query):
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert kinds.get(family) in ("counter", "histogram"), where
        for name in re.findall(r"\b(sonorant_\w+_(?:total|bucket|sum|count))\b", query):
            assert name in re.findall(rates, query), where


def test_panels_stand_side_by_side_and_are_explained():
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        covered = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not covered & cells
        assert at["x"] + at["w"] <= 24
        cells |= covered
    assert len(cells) == 24 * (1 + max(y for _, y in cells)), "no gaps"
    for name in ("id", "title"):
        assert len({panel[name] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert titles == ["Overview", "Fleet", "Models", "Stages", "Processes"]
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]


def test_every_variable_is_there_and_every_panel_takes_the_chosen_source():
    used = {name for query in QUERIES.values() for name in re.findall(r"\$(\w+)", query)} - {"__rate_interval"}
    assert used | {"datasource"} == VARIABLES.keys()
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_what_can_be_chosen_is_asked_for_by_labels_that_are_told(observed):
    for name, variable in VARIABLES.items():
        if name == "datasource":
            continue
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
        assert label in observed.labels[metric] | OF_TARGETS
        assert variable["allValue"] == ".*"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_legend_names_labels_that_its_query_keeps(panel):
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        parts = all_of(AggregateExpr, parsed(target["expr"]))
        assert named == {label for part in parts if part.modifier for label in part.modifier.labels} - {"le"}
        assert panel["type"] == "stat" or target["legendFormat"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_has_happened_and_what_to_look_at(rule):
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Sonorant[A-Z]\w+", rule["alert"])
    assert promql_parser.parse_duration(rule["for"]).total_seconds() >= 60
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(text.strip() for text in rule["annotations"].values())
    expression = parsed(rule["expr"])
    kept = {label for part in all_of(AggregateExpr, expression) if part.modifier for label in part.modifier.labels}
    kept |= OF_TARGETS if any(each.name == "up" for each in all_of(VectorSelector, expression)) else set()
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["description"])) <= kept


def test_the_rules_are_read_where_there_is_a_prometheus():
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    assert config["rule_files"] == ["alerts.yaml"]
    assert {job["job_name"] for job in config["scrape_configs"]} == {"gateway", "worker"}


def test_alerts_have_names_of_their_own():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_every_setting_and_path_that_a_runbook_names_is_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    for rule in RULES:
        for name in re.findall(r"SONORANT_\w+|/api/\w+", rule["annotations"]["runbook"]):
            assert name in readme


def test_what_is_provisioned_finds_prometheus_and_the_dashboard():
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/sonorant.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
