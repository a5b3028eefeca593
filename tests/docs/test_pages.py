# SPDX-License-Identifier: Apache-2.0
"""Pages lead where they say, name what exists, and can be found."""

import re
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import fields
from pathlib import Path

import pytest

import agent.ledger
import agent.metrics
from agent.config import Config as AgentConfig
from consumer.alerts.config import Config as AlertConfig
from consumer.alerts.detectors.table import DETECTORS
from consumer.alerts.metrics import Metrics as AlertMetrics
from consumer.alerts.outlets.metrics import OutletMetrics
from consumer.alerts.sql_rules import _Counts
from consumer.config import Config as ConsumerConfig
from consumer.metrics import Metrics
from schemas.catalogue import RECORDS
from service.options import environment_name
from tests.docs.pages import PAGES, ROOT, blocks, name, prose

CONFIGS = {"agent": AgentConfig, "consumer": ConsumerConfig, "alert": AlertConfig}
OPTIONS = {service: {field.name for field in fields(config)} for service, config in CONFIGS.items()}
PICTURES = sorted((ROOT / "docs/pictures").iterdir())


def links(page: Path) -> list[tuple[str, str]]:
    """Path and anchor of every link to something of ours."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    ours = [target.partition("#") for target in targets if "://" not in target]
    return [(path, anchor) for path, _, anchor in ours]


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to the page: headings as web sites spell them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page

        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*/*.md")), ids=name)
def test_the_index_leads_to_every_page(page):
    index = ROOT / "docs/README.md"

    assert page in {(index.parent / path).resolve() for path, _ in links(index)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_are_those_of_options(page):
    known = {environment_name(option) for options in OPTIONS.values() for option in options}

    named = set(re.findall(r"\bHOOKLINE_[A-Z_]+\b", page.read_text()))

    # It names the file in which options stand, so it is none itself.
    assert named - {"HOOKLINE_CONFIG"} <= known


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_configuration_that_is_shown_is_understood(page):
    for block in blocks(page, "toml"):
        content = tomllib.loads(block)
        of_alert = content.get("alert", {})
        for inner in {*DETECTORS, "outlet", "mitigation"} & set(of_alert):
            del of_alert[inner]
        for service in CONFIGS:
            assert set(content.pop(service, {})) <= OPTIONS[service]
        assert set(content) <= OPTIONS["agent"] & OPTIONS["consumer"]


def test_the_metrics_page_has_every_metric_and_no_other():
    text = (ROOT / "docs/reference/metrics.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))

    consumer = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in Metrics(RECORDS).registry.collect()
    }
    of_agent = {f"{name}_total" for name in agent.metrics._PUBLISHED | agent.metrics._SOCKETS}
    counters = (*agent.ledger._PASSED_ON, *agent.ledger._REJECTED.values())
    of_agent |= {f"agent_{counter}_total" for counter in counters}

    alert = AlertMetrics([], [])
    OutletMetrics([], alert.registry)
    _Counts([], alert.registry)
    consumer |= {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in alert.registry.collect()
    }
    of_agent.add("agent_dropped_interface_rows_total")
    of_rules = {"agent_rules", "agent_rejected_rules_total"}
    of_owners = {"agent_known_sockets", "agent_evicted_sockets_total"}
    assert rows == consumer | of_agent | of_owners | of_rules | {"agent_waiting_bytes"}


@pytest.mark.parametrize("picture", PICTURES, ids=name)
def test_a_picture_tells_what_it_shows_and_suits_both_themes(picture):
    svg = ET.parse(picture).getroot()  # noqa: S314  # our own file

    assert svg.findtext("{*}title")
    assert svg.findtext("{*}desc")
    assert "prefers-color-scheme: dark" in svg.findtext("{*}style")


@pytest.mark.parametrize("picture", PICTURES, ids=name)
def test_a_picture_is_shown(picture):
    assert any(
        (page.parent / path).resolve() == picture for page in PAGES for path, _ in links(page)
    )
