"""Grafana's example dashboard and the alerts of OPERATIONS.md ask for metrics that exist, with labels they have."""

import json
import re
from pathlib import Path

import pytest

from he_agg.ids import RoundId
from service.monitor.metrics import Metrics
from service.observers import PHASES, Answered, Fold

ROOT = Path(__file__).parents[3]
DASHBOARD = json.loads((ROOT / "docs/grafana/he-agg.json").read_text())
PAGE = (ROOT / "OPERATIONS.md").read_text()
WORDS = {
    "sum", "rate", "increase", "by", "le", "histogram_quantile", "time", "max", "min", "or", "and", "on", "avg",
    "changes", "bool", "offset", "clamp_min",
}  # fmt: skip


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Names of all samples, and their labels, of aggregators whose federations have done everything."""
    from service.aggregator import Aggregator
    from service.domain import events
    from service.limits import Limits
    from service.monitor.audit_log.wiring import open_sender
    from service.settings import Settings
    from tests.support.peers import enrol, make_plan

    directory = tmp_path_factory.mktemp("grafana")
    settings = Settings(data_dir=directory, audit_log=f"file:{directory}/events.jsonl")

    async def open_it():
        return Aggregator.open(settings)

    import asyncio

    aggregator = asyncio.run(open_it())
    plan = make_plan("stroke")
    enrol(aggregator.store, aggregator.conductor, plan, ["a", "b"])
    aggregator.conductor.apply("stroke", events.Started())
    metrics = Metrics()
    sender = open_sender(settings)
    assert sender is not None
    metrics.bind(aggregator, Limits(settings), sender)
    for method, route in PHASES:
        for status in (200, 204, 201):
            metrics.answered(Answered(0.0, 0.1, method, route, status, 1, 1, "", "stroke", "a", "", "busy"))
    metrics.folded(Fold(RoundId("stroke", 1, 1), 0.0, 1.0, "published"))
    text = metrics.render().decode()
    sender.close(5)
    aggregator.close()
    text += metrics_while_awaited(tmp_path_factory.mktemp("split"))
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels = re.match(r"([a-z_0-9]+)(?:\{(.*)\})? ", line).groups()
        found.setdefault(name, set()).update(re.findall(r'([a-z_]+)="', labels or ""))
    return found


def metrics_while_awaited(data_dir):
    from service.limits import Limits
    from tests.support.holding import put_sharing_key, submit_all
    from tests.support.peers import make_plan
    from tests.support.simulated import SimulatedFederation

    inside = SimulatedFederation(data_dir, make_plan("f", split=True, min_sites=3), holders="abcd")
    for name in "abcd":
        put_sharing_key(inside.at(name))
    submit_all(inside.plan, inside.at, "f.1.1")
    inside.fold()
    metrics = Metrics()
    metrics.bind(inside.aggregator, Limits(inside.settings))
    text = metrics.render().decode()
    inside.end()
    return text


def check(query, known):
    bare = re.sub(r'"[^"]*"', '""', query)
    names = set(re.findall(r"\b(he_agg_[a-z_]+|process_[a-z_]+)\b", bare))
    assert names, query
    assert names <= known.keys(), names - known.keys()
    labels = set(re.findall(r'([a-z_]+)\s*(?:=~|!=|=)\s*""', bare))
    for group in re.findall(r"\bby\s*\(([^)]*)\)", bare):
        labels |= {name.strip() for name in group.split(",")}
    assert labels <= set().union(*(known[name] for name in names)), (labels, query)
    rest = set(re.findall(r"\b[a-z_]+\b", re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby\s*\([^)]*\)", "", bare)))
    assert rest - names <= WORDS, rest - names - WORDS


def queries():
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize(("title", "query"), queries())
def test_each_query_asks_for_what_exists(title, query, known):
    check(query.replace("$__rate_interval", "5m"), known)


def test_variables_too(known):
    (variable,) = [each for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    metric, label = re.fullmatch(r"label_values\(([a-z_]+), ([a-z_]+)\)", variable["query"]).groups()
    assert label in known[metric]


def test_the_check_can_fail(known):
    for wrong in (
        "he_agg_nothing",
        'he_agg_rounds{site="a"}',
        "sum by (site) (he_agg_rounds)",
        "median(he_agg_rounds)",
    ):
        with pytest.raises(AssertionError):
            check(wrong, known)


def test_panels_have_titles_and_places():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) >= 10
    assert all(panel["title"] and panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])


def test_alerts_of_the_page_ask_for_what_exists(known):
    section = PAGE.partition("### What to alert on")[2].partition("\n### ")[0]
    alerts = re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)
    assert len(alerts) >= 8
    for query in alerts:
        check(query.replace("\\|", "|"), known)


def test_the_page_names_every_metric(known):
    section = PAGE.partition("## Monitoring")[2].partition("\n## ")[0]
    ours = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known if name.startswith("he_agg_")}
    ours = {re.sub(r"_total$", "", name) for name in ours}
    for name in ours:
        assert name in section, name
