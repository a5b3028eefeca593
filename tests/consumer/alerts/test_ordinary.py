# SPDX-License-Identifier: Apache-2.0
"""An hour in which nothing is wrong raises no alert, and one attack in it raises its own alone."""

import numpy as np

from consumer.alerts.alert import Sighting
from consumer.alerts.config import Config
from consumer.alerts.metrics import Metrics
from consumer.alerts.rows import Rows
from consumer.alerts.watch import Watch, topics
from service.options import Tables
from tests.consumer.alerts.ordinary import STEP_S, STORE, same_site
from tests.consumer.alerts.scenes import BEGIN_S, SYN, batch

# What takes a day to learn is learned within a quarter of the hour.
LEARNING = Tables({"new_peer": {"learning": 900.0}, "beacon": {"learning": 900.0}})


def seen_in(seconds: int, attack_at: int = -1) -> list[Sighting]:
    """What all detectors see of an ordinary time, with a port scan in the step at *attack_at*."""
    detectors = Config(tables=LEARNING).detectors()
    watch = Watch(detectors, Metrics(topics(detectors), [one.name for one in detectors]))
    found = []
    for end, by_kind in same_site().steps(seconds):
        if end - STEP_S - 0.5 == attack_at:
            by_kind["flow"].append(a_scan(attack_at))
        now_ns = int((BEGIN_S + end) * 1e9)
        for batches in by_kind.values():
            found += watch.show(Rows(batches), now_ns)
        found += watch.look(now_ns)
    return found


def a_scan(time: float):
    ports = np.arange(1, 400)
    return batch(
        rows=len(ports),
        time=time,
        src_addr="10.0.0.66",
        dst_addr=STORE,
        dst_port=ports,
        tcp_flags=SYN,
    )


def test_an_ordinary_hour_raises_no_alert():
    assert [one.summary for one in seen_in(3600)] == []


def test_a_scan_on_an_ordinary_day_is_all_that_is_told():
    found = seen_in(100, attack_at=60)

    assert {(one.detector, one.labels["source"]) for one in found} == {("port_scan", "10.0.0.66")}
