# SPDX-License-Identifier: Apache-2.0
"""What detectors and rules find reaches the outlets of the whole service, over a kill as well."""

import signal
from pathlib import Path

import pytest

from consumer.alerts.outlets.outlets import outlets_of
from consumer.alerts.service import _told_alone
from schemas.catalogue import RECORDS
from tests.consumer.alerts.alerts import an_alert
from tests.consumer.alerts.receiver import Receiver
from tests.consumer.alerts.test_service import Place, until_ready
from tests.consumer.process import create_topics, publish
from tests.services.served_history import served_history

pytestmark = pytest.mark.services

CONFIG = """\
[[alert.outlet]]
name = "pager"
type = "webhook"
url = "{url}/hook"
group_wait = 0
match = {{ detector = "syn_flood" }}

[[alert.outlet]]
name = "am"
type = "alertmanager"
url = "{url}"
match = {{ detector = "rows_on_node" }}
"""
RULES = """\
- name: rows_on_node
  query: |
    SELECT node, count() AS value FROM hookline.flows
    WHERE time >= {since} AND time < {until} GROUP BY node
  every: 1s
  over: 5m
  above: 10
  labels: [node]
  severity: info
  summary: "{node} has {value} rows"
"""


def configured(directory: Path, url: str, history: str) -> list[str]:
    (directory / "hookline.toml").write_text(CONFIG.format(url=url))
    (directory / "rules.yaml").write_text(RULES)
    return [
        *("--config", str(directory / "hookline.toml")),
        *("--rules", str(directory / "rules.yaml"), "--clickhouse", history),
    ]


async def test_what_is_found_reaches_its_outlet_also_when_the_service_is_killed(kafka, tmp_path):
    await create_topics(kafka, [record.topic for record in RECORDS], partitions=1)
    place = Place(kafka, tmp_path)
    place.node = "tells"
    with served_history(tmp_path / "history") as history:
        history.tell("rows 1000")
        async with Receiver() as receiver:
            flags = configured(tmp_path, receiver.url, history.url)
            with place.service(*flags) as service:
                await until_ready(service)
                await service.until(lambda: any(one.path != "/hook" for one in receiver.got))
                receiver.next_answers(503, headers={"Retry-After": "60"})
                await publish(kafka, place.flood())
                await service.until(lambda: any(one.path == "/hook" for one in receiver.got))
                service.process.send_signal(signal.SIGKILL)
            with place.service(*flags) as service:
                told = [one for one in receiver.got if one.path == "/hook"]
                await service.until(lambda: sum(one.path == "/hook" for one in receiver.got) > 1)
                assert await service.terminate() == 0, service.log

    [posted] = next(one.body for one in receiver.got if one.path == "/api/v2/alerts")
    assert posted["labels"] == {"alertname": "rows_on_node", "severity": "info", "node": "alpha"}
    assert posted["annotations"]["summary"].startswith("alpha has ")
    again = [one for one in receiver.got if one.path == "/hook"][1]
    assert again.key == told[0].key
    assert again.content == told[0].content
    [alert] = again.body["alerts"]
    assert alert["labels"]["destination"] == place.victim


async def test_what_outlets_were_told_and_nobody_remembers_is_taken_up(tmp_path):
    section = {"outlet": [{"name": "pager", "type": "webhook", "url": "http://127.0.0.1:9/"}]}
    outlets = outlets_of(section, tmp_path)
    await outlets.start()
    try:
        alert = an_alert()
        await outlets.deliver([alert])
        ((first, latest),) = await _told_alone(outlets, [])
        assert first.fingerprint == latest.fingerprint == alert.sighting.fingerprint
        assert await _told_alone(outlets, [(first, latest)]) == []
    finally:
        await outlets.stop()
