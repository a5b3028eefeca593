# SPDX-License-Identifier: Apache-2.0
from prometheus_client import generate_latest

from consumer.metrics import Metrics
from schemas.catalogue import RECORDS


def page(metrics: Metrics) -> list[str]:
    return generate_latest(metrics.registry).decode().splitlines()


def test_every_counter_of_loss_is_there_before_the_first_loss():
    lines = page(Metrics(RECORDS))

    for name, label in (
        ("rejected_records", 'topic="hookline.flow.v1"'),
        ("lost_records", 'topic="hookline.packet.v1"'),
        ("void_plans", 'topic="hookline.flow.v1"'),
        ("incomplete_batches", 'topic="hookline.flow.v1"'),
        ("retried_inserts", 'table="ledger"'),
    ):
        assert f"consumer_{name}_total{{{label}}} 0.0" in lines


def test_a_partition_that_moved_away_shows_no_lag():
    metrics = Metrics(RECORDS)
    metrics.set_lag({("hookline.flow.v1", 0): 5})
    metrics.set_lag({("hookline.flow.v1", 1): 7})

    lag = [line for line in page(metrics) if line.startswith("consumer_lag_records{")]

    assert lag == ['consumer_lag_records{partition="1",topic="hookline.flow.v1"} 7.0']
